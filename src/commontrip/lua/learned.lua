-- Note that a replica has applied a transition, and how late: for the console.
--
-- KEYS: epoch, learned (a hash: replica → how late, ms; begun anew by every transition).
-- ARGV: epoch id, replica, how late (ms).
-- Returns how many have learned of it, the maker and the caller included; 0 if there is a newer epoch.
-- Invariants: the hash speaks of the current epoch only.
-- Called once per replica and transition.

local e = parse(redis.call('MGET', KEYS[1])[1])
if not e or e.id ~= ARGV[4] then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
redis.pcall('PEXPIRE', KEYS[2], BASE + e.cooldown)
return redis.call('HLEN', KEYS[2])
