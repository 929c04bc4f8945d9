-- Note which transitions have been told to whoever keeps them (a collector of spans, say).
--
-- KEYS: told, a sorted set: epoch id → the time until which nobody else needs to tell of it.
-- ARGV: for how long (ms), then epoch ids.
-- Returns how many there are.
-- Invariants: what is forgotten is told again, so forgetting is harmless; a key of a wrong type is replaced.
-- Called once for each batch that a replica has delivered.

local length = tonumber(ARGV[4])
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
for i = 5, #ARGV do redis.call('ZADD', KEYS[1], text(now + length), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
redis.call('PEXPIRE', KEYS[1], length)
return redis.call('ZCARD', KEYS[1])
