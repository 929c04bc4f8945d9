-- Ask for a place among the probes, or keep it; the first to ask after the cooldown starts the round.
--
-- KEYS: the block of ten.
-- ARGV: name, lease id, lease (ms), probes in a round, token, replica, cause, renew 0/1 (the probe runs).
-- Returns a view: granted, full, open (not yet due), closed, missing, ext (somebody SET the state);
--   with probes: succeeded, failed, in flight.
-- Invariants: settled + in flight never exceeds the budget by a grant; a probe that runs fills a place in whatever
--   state and round, also after its lease was lost; if its place has gone to another its id is marked `!`, and it no
--   longer counts for the verdict. Asking again under one's own id changes nothing but the expiry. A refusal writes
--   nothing, but for the two cases in which a limit itself has to be written: leases were lost (nobody for one lease
--   time), or the clock went back.
-- Called before a probe and while it runs.

local key = block(1)
local name, lease, length, budget, renew = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[11] == '1'
local e, hand, mended = open(key)

if not e then return view('missing', nil, nil, mended) end
if hand then return view('ext', e, hand, mended) end
if not renew and e.state == 'CLOSED' then return view('closed', e, nil, mended) end
if not renew and e.state == 'OPEN' then
  if now < e.till then return view('open', e, nil, mended) end
  e = commit(key, name, e, 'HALF_OPEN', {
    token = ARGV[8], replica = ARGV[9], reason = 'cooldown_over', remaining = 0, cooldown = e.cooldown, opens = e.opens,
    failures = 0, calls = 0, error = '-', cause = ARGV[10], mode = '-', note = '',
  })
end

local p = prune(load_probes(redis.call('MGET', key.probes)[1]))
local dirty = false
if e.state == 'HALF_OPEN' and p[1] ~= e.token then -- leases are lost: who holds one renews it within a lease, or is gone
  p[1], p[2], p[3], p[4], dirty = e.token, 0, 0, now + length, true
end
local longest = math.max(p[5], length)
if p[4] - now > longest then p[4], dirty = now + longest, true end
local mine
for i = PROBES + 1, #p, 2 do
  if p[i] == lease or p[i] == '!' .. lease then mine = i end
  if p[i + 1] - now > longest then p[i + 1], dirty = now + longest, true end
end
local live = (#p - PROBES) / 2
if not mine and not renew and live == 0 and p[2] + p[3] >= budget then
  p[2], p[3] = 0, 0 -- left so by a larger budget than ours
end
local full = p[2] + p[3] + live >= budget
if not mine and not renew and (p[4] > now or full) then
  if dirty then save_probes(key, p, e) end
  return view('full', e, nil, mended, nil, {p[2], p[3], live})
end
if not mine then
  mine = #p + 1
  p[mine] = full and '!' .. lease or lease
end
p[mine + 1], p[5] = now + length, longest
save_probes(key, p, e)
for _, at in ipairs({key.epoch, key.state, key.cooldown, key.failures}) do redis.pcall('PEXPIRE', at, BASE + e.cooldown) end
local status = e.state == 'HALF_OPEN' and 'granted' or string.lower(e.state)
return view(status, e, nil, mended, nil, {p[2], p[3], (#p - PROBES) / 2})
