-- Renews the leases of a node's slots, and puts back those that the server has lost.
-- ARGV: packed numbers, the node, the channel, the name of the set of slots; then for each slot its
-- id and packed numbers: its tokens and the rest of its lifetime.
-- Returns the ids of the slots that another node returned.

local passed_in, lease, keep_ms = struct.unpack('<ddd', ARGV[1])
local node = ARGV[2]
local now = clock(passed_in)
load()
local freed = expire(now)
local returned = {}
for i = 5, #ARGV, 2 do
    local id = ARGV[i]
    if redis.call('ZREM', KEYS[2], 't' .. id) == 1 then
        returned[#returned + 1] = id
    else
        local entry = redis.call('HGET', KEYS[1], id)
        if entry then
            local _, ends = struct.unpack(ENTRY, entry)
            redis.call('ZADD', KEYS[2], text(math.min(ends, now + lease)), id)
        else
            local tokens, rest = struct.unpack('<dd', ARGV[i + 1])
            put(id, tokens, now + rest, node, now + lease)
        end
    end
end
save(now, freed, keep_ms, ARGV[3], ARGV[4])
return returned
