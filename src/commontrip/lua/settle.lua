-- Give a probe's place back, count what it did, and end the round if that decides it: one step.
--
-- KEYS: the block of ten.
-- ARGV: name, lease id, epoch id of the round, s (succeeded) f (failed) or n (neutral), probes in a round,
--   verdict grid (row succeeded, column failed: c close, o open, . go on), token, replica, cooldown (ms), opens, error, cause.
-- Returns a view: counted (also when repeated after it ended the round), gone (the lease had run out), old (another
--   round), missing, ext (somebody SET the state); with probes: succeeded, failed, in flight.
-- Invariants: a lease is settled once; what an earlier round's probe did is not counted.
-- Called after a probe.

local key = block(1)
local name, lease, id, kind, budget, token = ARGV[4], ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[10]
local e, hand, mended = open(key)

if not e then return view('missing', nil, nil, mended) end
if e.token == token then return view('counted', e, hand, mended) end
if hand then return view('ext', e, hand, mended) end

local p, held, skip = {}, false, 0
for i, value in ipairs(prune(load_probes(redis.call('MGET', key.probes)[1]))) do
  if i > PROBES and i % 2 == 0 and (value == lease or value == '!' .. lease) then
    held, skip = value == lease, i + 1
  end
  if i > skip or i < skip - 1 then p[#p + 1] = value end
end
local function reply(status)
  return view(status, e, nil, mended, nil, {p[2], p[3], (#p - PROBES) / 2})
end
if not held then
  if skip > 0 then save_probes(key, p, e) end
  return reply('gone')
end
if e.id ~= id or e.state ~= 'HALF_OPEN' or p[1] ~= e.token then
  save_probes(key, p, e)
  return reply('old')
end
if kind == 's' then p[2] = p[2] + 1 elseif kind == 'f' then p[3] = p[3] + 1 end
save_probes(key, p, e)
local at = math.min(p[2], budget) * (budget + 1) + math.min(p[3], budget) + 1
local verdict = kind == 'n' and '.' or string.sub(ARGV[9], at, at)
if verdict == 'c' or verdict == 'o' then
  local cooldown = verdict == 'o' and tonumber(ARGV[12]) or 0
  e = commit(key, name, e, verdict == 'c' and 'CLOSED' or 'OPEN', {
    token = token, replica = ARGV[11], reason = verdict == 'c' and 'probes_succeeded' or 'probes_failed',
    remaining = cooldown, cooldown = cooldown, opens = verdict == 'o' and tonumber(ARGV[13]) or 0,
    failures = p[3], calls = p[2] + p[3], error = verdict == 'o' and ARGV[14] or '-', cause = ARGV[15],
    mode = '-', note = '',
  })
end
return reply('counted')
