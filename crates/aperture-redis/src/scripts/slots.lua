-- What the scripts of slots have in common; it stands before each of them.
-- KEYS[1]: a hash with an entry for each slot (its tokens, the end of its lifetime and its node),
-- the sums of all tokens in "s", and in "w" the time until which a flow waits for a slot.
-- KEYS[2]: a sorted set of the ids of slots by the time when they expire, which is the end of the
-- lease of their node or of their lifetime. The id of a slot that another node returned follows a
-- "t" there, until its own node has learned of it.
-- Times are in microseconds of the server's clock, or in nanoseconds of a clock that is passed in.

local ID_BYTES = 16
local ENTRY = '<ddc8'
local SUMS = '<ddddd'
local LARGEST = 2 ^ 80
local HIGH, LOW = 2 ^ 40, 2 ^ 26

-- Times as text: these are whole numbers, which doubles hold exactly.
local function text(time)
    return string.format('%.17g', time)
end

local function clock(passed_in)
    if passed_in >= 0 then return passed_in end
    -- Redis 6 may replicate scripts as text, unless they say otherwise before they write.
    if redis.replicate_commands then redis.replicate_commands() end
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- The tokens in flight, exactly: whole numbers and the bits of the fractions are added apart, so
-- that what was added can be subtracted without a residue.
local sums = {0, 0, 0, 0, 0}
local waited_until = 0

local function load()
    local packed, waited = unpack(redis.call('HMGET', KEYS[1], 's', 'w'))
    if packed and #packed == 40 then sums = {struct.unpack(SUMS, packed)} end
    waited_until = tonumber(waited or 0)
end

local function add(tokens, sign)
    if tokens < 0 then tokens, sign = -tokens, -sign end
    tokens = math.min(tokens, LARGEST)
    local high = math.floor(tokens / HIGH)
    local rest = tokens - high * HIGH
    sums[1] = sums[1] + sign * high
    for place = 2, 5 do
        local digits = math.floor(rest)
        sums[place] = sums[place] + sign * digits
        rest = (rest - digits) * LOW
    end
end

local function in_flight()
    local fraction = ((sums[5] / LOW + sums[4]) / LOW + sums[3]) / LOW
    return fraction + sums[2] + sums[1] * HIGH
end

local function remove(id)
    local entry = redis.call('HGET', KEYS[1], id)
    if not entry then return nil end
    local tokens, _, node = struct.unpack(ENTRY, entry)
    add(tokens, -1)
    redis.call('HDEL', KEYS[1], id)
    return node
end

local function put(id, tokens, ends, node, lease_ends)
    redis.call('HSET', KEYS[1], id, struct.pack(ENTRY, tokens, ends, node))
    redis.call('ZADD', KEYS[2], text(math.min(ends, lease_ends)), id)
    add(tokens, 1)
end

-- Removes the slots that have expired. A slot counts to the end of its last unit of time.
local function expire(now)
    local freed = false
    local batch = 100
    repeat
        local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(now), 'LIMIT', 0, batch)
        for _, id in ipairs(ids) do
            if #id == ID_BYTES and remove(id) then freed = true end
        end
        if #ids > 0 then redis.call('ZREM', KEYS[2], unpack(ids)) end
    until #ids < batch
    -- The server may have evicted one key and not the other.
    if redis.call('EXISTS', KEYS[2]) == 0 then
        redis.call('DEL', KEYS[1])
        sums = {0, 0, 0, 0, 0}
    end
    return freed
end

-- Writes what has changed, and publishes that slots were freed if a flow waits for one.
local function save(now, freed, keep_ms, channel, key)
    if freed and waited_until >= now then
        redis.pcall('PUBLISH', channel, key)
        waited_until = 0
    end
    redis.call('HSET', KEYS[1], 's', struct.pack(SUMS, unpack(sums)), 'w', text(waited_until))
    redis.call('PEXPIRE', KEYS[1], text(keep_ms))
    redis.call('PEXPIRE', KEYS[2], text(keep_ms))
end
