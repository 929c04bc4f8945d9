-- Ask for a place among the probes, or renew it; the first to ask after the cooldown starts the round.
--
-- KEYS: the block of ten.
-- ARGV: name, lease id, lease (ms), probes in a round, token, replica, cause.
-- Returns a view: granted, full, open (not yet due), closed, missing, ext (somebody SET the state);
--   with probes: succeeded, failed, in flight, wait (ms) until asking again can help.
-- Invariants: settled + in flight never exceeds the budget; a lease of an earlier round that still runs fills a place;
--   asking with one's own lease renews it; a refusal writes nothing, but for the two cases in which a limit
--   itself has to be written: leases were lost (nobody for one lease time), or the clock went back.
-- Called before a probe and while it runs.

local key = block(1)
local name, lease, length, budget = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local e, hand, mended = open(key)

if not e then return view('missing', nil, nil, mended) end
if hand then return view('ext', e, hand, mended) end
if e.state == 'CLOSED' then return view('closed', e, nil, mended) end
if e.state == 'OPEN' then
  if now < e.till then return view('open', e, nil, mended, nil, {0, 0, 0, e.till - now}) end
  e = commit(key, name, e, 'HALF_OPEN', {
    token = ARGV[8], replica = ARGV[9], reason = 'cooldown_over', remaining = 0, cooldown = e.cooldown, opens = e.opens,
    failures = 0, calls = 0, error = '-', cause = ARGV[10], mode = '-', note = '',
  })
end

local p = prune(load_probes(redis.call('MGET', key.probes)[1]))
local dirty = false
if p[1] ~= e.token then -- the leases are lost: whoever holds one is heard of again within a lease, or is gone
  p, dirty = {e.token, 0, 0, now + length}, true
end
if p[4] - now > length then p[4], dirty = now + length, true end
local mine, earliest = nil, math.huge
for i = PROBES + 1, #p, 2 do
  if p[i] == lease then mine = i end
  if p[i + 1] - now > length then p[i + 1], dirty = now + length, true end
  earliest = math.min(earliest, p[i + 1])
end
local live = (#p - PROBES) / 2
if not mine and live == 0 and p[2] + p[3] >= budget then p[2], p[3] = 0, 0 end -- left so by a larger budget than ours
if not mine and (p[4] > now or p[2] + p[3] + live >= budget) then
  if dirty then save_probes(key, p, e) end
  local wait = p[4] > now and p[4] - now or (earliest < math.huge and earliest - now or 0)
  return view('full', e, nil, mended, nil, {p[2], p[3], live, wait})
end
mine = mine or #p + 1
p[mine], p[mine + 1] = lease, now + length
save_probes(key, p, e)
for _, at in ipairs({key.epoch, key.state, key.cooldown, key.failures}) do redis.call('PEXPIRE', at, BASE + e.cooldown) end
return view('granted', e, nil, mended, nil, {p[2], p[3], (#p - PROBES) / 2, 0})
