-- Records that a node uses the store, and counts the nodes seen lately.
-- KEYS[1]: a sorted set of nodes by the time when they were last seen, in milliseconds.
-- ARGV: the node, the time for which a node counts, in milliseconds.

if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
