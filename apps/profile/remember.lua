-- Add an answer of auth's for one user to what is remembered; the same rule as known.py.
-- KEYS   1 the user's record, a hash
-- ARGV   1 info, '' for a refusal   2 asked (µs by this clock, not after the question was sent)
--        3 expires (µs, 0 = never)  4 life of the record (ms)
-- Returns now (µs) and the info that stands, '' if nothing may be said.
-- Keeps: what was asked for before the last refusal was written here never stands again.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local info, asked, expires = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answered = now
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
end
local was = redis.call('HMGET', KEYS[1], 'info', 'asked', 'answered', 'expires')
-- A time in the future is another clock's, from before a failover.
local until_then = math.min(tonumber(was[3]) or now, now)
if was[1] and asked <= until_then then
  if was[1] == '' and info ~= '' then
    answered = until_then -- not longer for those who come too late, or they might never end
  end
  if was[1] ~= info then
    info = ''
  end
  asked = math.max(asked, tonumber(was[2]) or 0)
  local before = tonumber(was[4]) or 0
  if before > 0 and (expires == 0 or before < expires) then
    expires = before
  end
end
redis.call('HSET', KEYS[1], 'info', info, 'asked', string.format('%.0f', asked),
  'answered', string.format('%.0f', answered), 'expires', string.format('%.0f', expires))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {string.format('%.0f', now), info}
