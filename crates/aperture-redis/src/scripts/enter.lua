-- Takes a slot while less than the capacity is in flight.
-- ARGV: packed numbers, the id of the slot, its node, the channel, the name of the set of slots.
-- Returns packed numbers: granted, in flight before, time until a slot expires (negative: none).

local passed_in, tokens, capacity, lifetime, lease, waits, wait_for, keep_ms =
    struct.unpack('<dddddddd', ARGV[1])
local now = clock(passed_in)
load()
local freed = expire(now)
local current = in_flight()

local next_expiry = -1
local first = redis.call('ZRANGE', KEYS[2], 0, 15, 'WITHSCORES')
for i = 1, #first, 2 do
    if #first[i] == ID_BYTES then
        next_expiry = math.max(first[i + 1] - now, 0)
        break
    end
end

local granted = current < capacity
if granted then
    put(ARGV[2], tokens, now + lifetime, ARGV[3], now + lease)
end
-- A flow that waits learns of the slots that others free from now on.
if freed or granted or waits == 1 then
    save(now, freed, keep_ms, ARGV[4], ARGV[5])
end
if not granted and waits == 1 then
    redis.call('HSET', KEYS[1], 'w', text(now + wait_for))
end
return struct.pack('<ddd', granted and 1 or 0, current, next_expiry)
