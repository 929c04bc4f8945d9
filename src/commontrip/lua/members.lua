-- Say who is in the fleet.
--
-- KEYS: replicas, a sorted set: replica → the time at which it is taken for gone.
-- Returns the names, at most 1,000.
-- Invariants: the silent are not named, also when nobody is left to forget them; nothing is written.
-- Called by consoles and tools.

if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return {} end
return redis.call('ZRANGE', KEYS[1], text(now), '+inf', 'BYSCORE', 'LIMIT', 0, 1000)
