-- Returns a slot, of this node or another one.
-- ARGV: packed numbers, the id of the slot, this node, the channel, the name of the set of slots.
-- Returns 1 if the slot was held, or 0.

local passed_in, remember_for, keep_ms = struct.unpack('<ddd', ARGV[1])
local id = ARGV[2]
local now = clock(passed_in)
load()
local freed = expire(now)
local node = remove(id)
if node then
    redis.call('ZREM', KEYS[2], id)
    if node ~= ARGV[3] then
        -- The node that holds the slot would put it back when it renews it.
        redis.call('ZADD', KEYS[2], text(now + remember_for), 't' .. id)
    end
end
if node or freed then
    save(now, true, keep_ms, ARGV[4], ARGV[5])
end
return node and 1 or 0
