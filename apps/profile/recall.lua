-- Read what is remembered of a user.
-- KEYS   1 the user's record, a hash
-- Returns now (µs), then info ('' = nothing may be said), asked, answered, expires (µs), all '' if nothing is there.
local time = redis.call('TIME')
local was = {}
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  was = redis.call('HMGET', KEYS[1], 'info', 'asked', 'answered', 'expires')
end
return {string.format('%.0f', time[1] * 1000000 + time[2]), was[1] or '', was[2] or '', was[3] or '', was[4] or ''}
