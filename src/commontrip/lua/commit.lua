-- The commit: one SET of `epoch` makes the transition; what follows is derived from it and may fail singly.
--
-- Invariants: the number is one above all that anybody remembers, and where there is none left a new incarnation
--   begins at 1; the token is minted by the caller, so a repeated call can be told; leases of running probes survive,
--   only the round's tally starts anew; what is written can be read again, whatever numbers the keys held.

local PROBES = 5 -- token succeeded failed nobody-before longest-lease, then id expiry per lease

local function load_probes(raw)
  local ok, p = pcall(cmsgpack.unpack, raw or '')
  local sound = ok and type(p) == 'table' and type(p[1]) == 'string' and #p >= PROBES and #p % 2 == 1
  for i = 2, sound and #p or 0 do
    if i > PROBES and i % 2 == 0 then sound = sound and type(p[i]) == 'string' else sound = sound and fits(p[i]) end
  end
  return sound and p or {'', 0, 0, 0, 0}, sound or not raw
end

-- Drop the leases that have run out.
local function prune(p)
  local live = {p[1], p[2], p[3], p[4], p[5]}
  for i = PROBES + 1, #p, 2 do
    if p[i + 1] > now then live[#live + 1], live[#live + 2] = p[i], p[i + 1] end
  end
  return live
end

local function save_probes(key, p, e)
  redis.call('SET', key.probes, cmsgpack.pack(p), 'PX', BASE + e.cooldown)
end

local function commit(key, name, e, to, new)
  local n, inc = math.max(e and e.n or -1, new.floor or -1) + 1, e and e.inc or new.inc
  if n > LARGEST then n, inc = 1, new.token end
  local till = to == 'OPEN' and now + new.remaining or 0
  local mode_for = new.mode ~= '-' and new.mode_for or 0
  local span = math.max(new.cooldown, mode_for)
  local ttl = BASE + span
  local fields = {
    inc .. '.' .. text(n) .. '.' .. new.token, to, text(now), text(till), text(span), text(math.min(new.opens, MOST_OPENS)),
    new.mode, text(mode_for > 0 and now + mode_for or 0), new.reason, new.replica,
    text(math.min(new.failures, LARGEST)), text(math.min(new.calls, LARGEST)),
    new.previous or (e and e.id) or '-', e and e.state or '-', text(e and e.since or 0), new.error, new.cause,
  }
  local made = parse(table.concat(fields, ' '))
  redis.call('SET', key.epoch, made.record, 'PX', ttl)

  redis.pcall('SET', key.state, to, 'PX', ttl)
  redis.pcall('PEXPIRE', key.last, ttl)
  redis.pcall('SET', key.cooldown, to == 'CLOSED' and '0' or text(new.cooldown), 'PX', ttl)
  if to == 'OPEN' then
    redis.pcall('SET', key.failures, text(new.failures), 'PX', ttl)
  elseif to == 'CLOSED' then
    redis.pcall('DEL', key.failures)
  else
    local p = prune(load_probes(redis.call('MGET', key.probes)[1]))
    p[1], p[2], p[3], p[4] = made.token, 0, 0, 0
    redis.pcall('SET', key.probes, cmsgpack.pack(p), 'PX', ttl)
  end
  if new.mode ~= '-' then
    redis.pcall('SET', key.override, new.note, 'PX', mode_for)
  else
    redis.pcall('DEL', key.override)
  end
  local entry = {'XADD', key.transitions, 'MAXLEN', '~', LONGEST, '*', 'note', new.note}
  for i, label in ipairs({'epoch', 'state', 'since', 'until', 'cooldown', 'opens', 'override', 'override_until', 'reason',
    'replica', 'failures', 'calls', 'previous', 'previous_state', 'previous_since', 'error', 'cause'}) do
    entry[#entry + 1], entry[#entry + 2] = label, fields[i]
  end
  local added = redis.pcall(unpack(entry))
  if type(added) == 'table' and added.err and string.find(added.err, 'WRONGTYPE', 1, true) then
    redis.pcall('DEL', key.transitions)
    redis.pcall(unpack(entry))
  end
  redis.pcall('PEXPIRE', key.transitions, math.max(86400000, ttl))
  redis.pcall('DEL', key.learned)
  redis.pcall('HSET', key.learned, new.replica, 0)
  redis.pcall('PEXPIRE', key.learned, ttl)
  redis.pcall('PUBLISH', CHANNEL, name .. ' ' .. made.record)
  return made
end
