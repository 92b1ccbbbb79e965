-- Takes tokens from a bucket, or returns tokens. The arithmetic, and its order, are those of the
-- engine's buckets, because clients see the results.
-- KEYS[1]: the bucket. ARGV[1]: packed numbers; times are in nanoseconds.
-- Returns packed numbers: granted, wait, unsatisfiable, remaining, current.

local NEVER = math.huge
-- The largest time of an engine.
local LIMIT = 9223372036854775808
local STATE = '<dddddddddddddd'
local STATE_BYTES = 14 * 8
-- Every key expires, also a bucket that is never forgotten: a year, or at most ten.
local YEAR_MS = 365 * 86400 * 1000
-- A clock that is passed in may be slower than the server's, which expires keys.
local PASSED_IN_MS = 3600 * 1000

local IMMEDIATE, WITHIN = 0, 1

local want, mode, within, idle, seconds, nanos,
    capacity, fill, interval, continuous, delayed, upstream = struct.unpack('<dddddddddddd', ARGV[1])
local passed_in = seconds >= 0
if not passed_in then
    -- Redis 6 may replicate scripts as text, unless they say otherwise before they write.
    if redis.replicate_commands then redis.replicate_commands() end
    local time = redis.call('TIME')
    seconds, nanos = tonumber(time[1]), tonumber(time[2]) * 1000
end

local settings = {
    capacity = capacity, fill = fill, interval = interval,
    continuous = continuous == 1, delayed = delayed == 1, upstream = upstream == 1,
}

-- Times count from `base`, in seconds, so that doubles hold them to the nanosecond.
local base, available, last_fill, start_fill, last_used
local rejected_until, rejected_want, rejected_remaining
local old_capacity, old_fill, old_interval, old_continuous, old_delayed, old_upstream
local state = redis.call('GET', KEYS[1])
local known = state and #state == STATE_BYTES
if known then
    base, available, last_fill, start_fill, last_used,
        rejected_until, rejected_want, rejected_remaining,
        old_capacity, old_fill, old_interval,
        old_continuous, old_delayed, old_upstream = struct.unpack(STATE, state)
else
    base, last_used = seconds, -NEVER
    rejected_until, rejected_want, rejected_remaining = -NEVER, -NEVER, 0
end
local now = (seconds - base) * 1e9 + nanos
-- A clock that steps back fills nothing.
local at = math.max(now, last_used)

-- Converts to whole nanoseconds.
local function whole(time)
    if time ~= time then return 0 end
    if time >= LIMIT then return NEVER end
    if time <= -LIMIT then return -LIMIT end
    return time < 0 and math.ceil(time) or math.floor(time)
end

local function later(time, span)
    local sum = time + span
    return sum >= LIMIT and NEVER or sum
end

local function time_to_fill(rules, tokens)
    if rules.fill == 0 then return 0 end
    local intervals = tokens / rules.fill
    if not rules.continuous then intervals = math.ceil(intervals) end
    return whole(intervals * rules.interval)
end

local function clamp(rules)
    if available > rules.capacity then available = rules.capacity end
end

local function refill(rules)
    if at <= start_fill then return end
    local passed = at - last_fill
    if rules.continuous then
        if passed > 0 or rules.upstream then
            available = available + rules.fill * passed / rules.interval
        end
        last_fill = at
    else
        local whole_intervals = passed - math.fmod(passed, rules.interval)
        if whole_intervals >= rules.interval then
            available = available + whole_intervals / rules.interval * rules.fill
            last_fill = last_fill + whole_intervals
        end
    end
    clamp(rules)
end

local function debt_paid_at(rules)
    local filling = time_to_fill(rules, -available)
    if at < start_fill then return later(start_fill, filling) end
    local gap = at - last_fill
    if gap > rules.interval then gap = 0 end
    local paid = later(at, filling)
    return paid == NEVER and NEVER or paid - gap
end

local function reportable(tokens)
    if tokens ~= tokens and not settings.upstream then return 0 end
    return tokens
end

local function reply(granted, wait, unsatisfiable, remaining)
    return struct.pack('<ddddd', granted and 1 or 0, math.max(wait, 0), unsatisfiable and 1 or 0,
        remaining, reportable(settings.capacity - remaining))
end

local function fill_up()
    available, last_fill, start_fill = settings.capacity, at, -NEVER
end

local changed = known and not (old_capacity == capacity and old_fill == fill
    and old_interval == interval and old_continuous == continuous
    and old_delayed == delayed and old_upstream == upstream)
if changed then
    rejected_until, rejected_want, rejected_remaining = -NEVER, -NEVER, 0
end

local unsatisfiable = mode == IMMEDIATE and not settings.upstream and want > capacity
if mode == IMMEDIATE and rejected_want >= want and rejected_until > now and not unsatisfiable then
    return reply(false, rejected_until - now, false, rejected_remaining)
end

if not known or at - last_used >= idle then
    fill_up()
elseif changed then
    if available - available == 0 then
        refill({
            capacity = old_capacity, fill = old_fill, interval = old_interval,
            continuous = old_continuous == 1, upstream = old_upstream == 1,
        })
        clamp(settings)
    else
        fill_up()
    end
end
last_used = at

refill(settings)
if settings.delayed and available == capacity then
    start_fill = later(at, time_to_fill(settings, capacity))
    last_fill = settings.continuous and start_fill or start_fill - interval
end

local before = available
local granted, wait = true, 0
available = available - want
if mode == IMMEDIATE or mode == WITHIN then
    local available_at = at
    if want > 0 and available < 0 then
        local waits = mode == WITHIN
        granted = waits and fill ~= 0
        if fill ~= 0 then
            available_at = debt_paid_at(settings)
            if waits and available_at > later(now, within) then granted = false end
            if available_at == NEVER or fill < 0 and not settings.upstream then granted = false end
        end
        if not granted then available = before end
    end
    clamp(settings)
    if mode == WITHIN then
        wait = available_at - now
    elseif not granted and not unsatisfiable and available - available == 0 then
        rejected_until, rejected_want, rejected_remaining = available_at, want, available
        wait = available_at - now
    end
else
    rejected_until, rejected_want, rejected_remaining = -NEVER, -NEVER, 0
    if want > 0 then
        available = math.max(available, math.min(before, -math.max(capacity, 0)))
        if available < 0 and fill > 0 then
            local paid = debt_paid_at(settings)
            if paid ~= NEVER then wait = paid - now end
        end
    end
    clamp(settings)
end

-- Every write moves the base, so that the numbers stay small.
local moved = math.max(0, seconds - base)
local shift = moved * 1e9
redis.call('SET', KEYS[1], struct.pack(STATE, base + moved, available, last_fill - shift,
    start_fill - shift, last_used - shift, rejected_until - shift, rejected_want,
    rejected_remaining, capacity, fill, interval, continuous, delayed, upstream),
    'PX', string.format('%.0f', math.max(passed_in and PASSED_IN_MS or 1, math.min(10 * YEAR_MS,
        math.ceil(math.max(idle == NEVER and YEAR_MS * 1e6 or idle, rejected_until - at) / 1e6)))))
return reply(granted, wait, unsatisfiable and not granted, reportable(available))
