-- Say what there is of each of several breakers; make what is missing if the caller is about to admit.
--
-- KEYS per breaker: the block of ten.
-- ARGV per breaker: name, seed 0/1, token, replica, window (ms), cooldown (ms).
-- Returns a view per breaker: ok, new (seeded now), missing, ext (somebody SET the state).
-- Invariants: without seed nothing changes but keys of a wrong type, which are removed; a seed is number 0, and
--   takes a valid state that it finds (`epoch` was evicted, or somebody SET the state before any replica came).
-- Called at a breaker's first use, after silence, after a gap in the subscription.

local KEYS_EACH, ARGS_EACH = 10, 6
local TYPES = {transitions = 'stream', learned = 'hash'}

-- What people read is derived from the record, and has its TTL, whoever has written there.
local function write_again(key, e, hand)
  local ttl = BASE + e.cooldown
  local wanted = {cooldown = e.state == 'CLOSED' and '0' or text(e.cooldown), failures = e.state == 'OPEN' and e.failures or nil}
  for name, value in pairs(wanted) do
    if redis.call('MGET', key[name])[1] ~= value then redis.call('SET', key[name], value, 'PX', ttl) end
  end
  for _, name in ipairs({'epoch', 'state', 'cooldown'}) do
    if not hand and redis.call('PTTL', key[name]) == -1 then redis.pcall('PEXPIRE', key[name], ttl) end
  end
end

local replies = {}
for i = 0, #KEYS / KEYS_EACH - 1 do
  local key, a = block(i * KEYS_EACH + 1), 4 + i * ARGS_EACH
  local wrong = ''
  for name, at in pairs(key) do
    local kind = redis.call('TYPE', at).ok
    if kind ~= 'none' and kind ~= (TYPES[name] or 'string') then
      redis.call('DEL', at)
      wrong = wrong .. name .. ' '
    end
  end
  local got = redis.call('MGET', key.epoch, key.state, key.window, key.probes)
  local e, hand, mended = judge(key, got[1], got[2])
  local status = e and (hand and 'ext' or 'ok') or 'missing'
  if not e and ARGV[a + 1] == '1' then
    local state, cooldown = STATES[got[2] or ''] and got[2] or 'CLOSED', tonumber(ARGV[a + 5])
    e = commit(key, ARGV[a], nil, state, {
      inc = ARGV[a + 2], token = ARGV[a + 2], replica = ARGV[a + 3], reason = 'seed', remaining = cooldown,
      cooldown = state == 'CLOSED' and 0 or cooldown, opens = state == 'CLOSED' and 0 or 1,
      failures = 0, calls = 0, error = '-', cause = '-', mode = '-', note = '',
    })
    status = 'new'
  end
  local counts, probes
  if e then
    local w, sound = load_window(got[3], e.token)
    if not sound then wrong = wrong .. 'window ' end
    local held, whole = load_probes(got[4])
    if not whole then wrong = wrong .. 'probes ' end
    local p = prune(held)
    local calls, failures, slow = age_window(w, tonumber(ARGV[a + 4]))
    counts = {calls, failures, slow, w[6], w[5], math.max(0, w[8] - now)}
    probes = {p[1] == e.token and p[2] or 0, p[1] == e.token and p[3] or 0, (#p - PROBES) / 2}
    write_again(key, e, hand)
  end
  replies[i + 1] = view(status, e, hand, wrong .. mended, counts, probes)
end
return replies
