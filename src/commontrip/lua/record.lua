-- Count one batch of outcomes for each of several breakers.
--
-- KEYS per breaker: epoch state failures lastFailure window seen cooldown.
-- ARGV per breaker: epoch id, batch number, not after (0 = any time), calls, failures, slow, first run,
--   longest run, last run, unbroken 0/1, retry-after (ms), window (ms), show the run 0/1.
-- Returns a view per breaker: ok, dup (this batch was counted), late, old (another epoch, or nothing counts now),
--   missing, ext (somebody SET the state).
-- Invariants: a batch is counted once, in the epoch that admitted its calls, in time or never.
-- Called by every replica with outcomes to send, at most every tenth of a second.

local KEYS_EACH, ARGS_EACH = 7, 13


local function count(key, e, w, a)
  local span = tonumber(ARGV[a + 11])
  local calls, failures, slow = age_window(w, span)
  local more, failed, slowed = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local width = math.max(span / 10, w[2] / 64)
  local at = #w - 3
  if at <= HEAD or w[at] <= now - width then
    at = #w + 1
    w[at], w[at + 1], w[at + 2], w[at + 3] = now, 0, 0, 0
  end
  w[at + 1], w[at + 2], w[at + 3] = w[at + 1] + more, w[at + 2] + failed, w[at + 3] + slowed
  local peak = math.max(w[5] + tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7]))
  if peak >= w[6] then w[6], w[7] = peak, now end
  w[5] = (ARGV[a + 9] == '1' and w[5] or 0) + tonumber(ARGV[a + 8])
  w[4] = now
  local wait = tonumber(ARGV[a + 10])
  if wait > 0 then w[8] = math.max(w[8], now + wait) end
  if now - w[3] > BASE / 4 or w[3] > now then
    w[3] = now
    for _, name in ipairs({'epoch', 'state', 'cooldown'}) do redis.pcall('PEXPIRE', key[name], BASE + e.cooldown) end
  end
  redis.call('SET', key.window, cmsgpack.pack(w), 'PX', BASE + w[2])
  redis.call('SET', key.seen, ARGV[a + 1], 'PX', 10000)
  if failed > 0 then redis.call('SET', key.last, text(now), 'PX', BASE) end
  return calls + more, failures + failed, slow + slowed
end

local replies = {}
for i = 0, #KEYS / KEYS_EACH - 1 do
  local first, a = i * KEYS_EACH, 4 + i * ARGS_EACH
  local key = {epoch = KEYS[first + 1], state = KEYS[first + 2], failures = KEYS[first + 3], last = KEYS[first + 4],
    window = KEYS[first + 5], seen = KEYS[first + 6], cooldown = KEYS[first + 7]}
  local got = redis.call('MGET', key.epoch, key.state, key.window, key.seen, key.failures)
  local e, hand, mended = judge(key, got[1], got[2])
  if not e then
    replies[i + 1] = view('missing', nil, nil, mended)
  elseif hand then
    replies[i + 1] = view('ext', e, hand, mended)
  elseif e.id ~= ARGV[a] or e.state ~= 'CLOSED' or e.mode == 'DISABLED' then
    replies[i + 1] = view('old', e, nil, mended)
  else
    local w, status, calls, failures, slow = load_window(got[3], e.token), 'ok', 0, 0, 0
    if tonumber(ARGV[a + 1]) <= (tonumber(got[4] or '0') or 0) then
      status = 'dup'
    elseif tonumber(ARGV[a + 2]) > 0 and now > tonumber(ARGV[a + 2]) then
      status = 'late'
    end
    local span = tonumber(ARGV[a + 11])
    if status == 'ok' then
      calls, failures, slow = count(key, e, w, a)
      local shown = ARGV[a + 12] == '1' and w[5] or failures
      if shown > 0 then
        redis.call('SET', key.failures, text(shown), 'PX', span)
      elseif got[5] then
        redis.call('DEL', key.failures)
      end
    else
      calls, failures, slow = age_window(w, span)
    end
    replies[i + 1] = view(status, e, nil, mended, {calls, failures, slow, w[6], w[5], math.max(0, w[8] - now)})
  end
end
return replies
