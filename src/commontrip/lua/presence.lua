-- Say that a replica is there, or that it leaves; count the fleet.
--
-- KEYS: replicas, a sorted set: replica → the time at which it is taken for gone.
-- ARGV: replica, for how long (ms; 0 = it leaves).
-- Returns the size of the fleet and the time.
-- Invariants: the silent are forgotten by whoever comes next, also those of a clock that has gone back; a key of a
--   wrong type is replaced.
-- Called at a replica's heartbeat, and to see whether the store can write again.

local length = tonumber(ARGV[5])
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
if length > 0 then -- first of all writes: after any other a full server would let it pass
  redis.call('ZADD', KEYS[1], text(now + length), ARGV[4])
  redis.pcall('PEXPIRE', KEYS[1], BASE + length)
  local last = text(now + math.max(length, BASE)) -- nobody says that he is there for longer
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], '(' .. last, '+inf', 'BYSCORE', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', KEYS[1], last, member)
  end
else
  redis.call('ZREM', KEYS[1], ARGV[4])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
return {redis.call('ZCARD', KEYS[1]), now}
