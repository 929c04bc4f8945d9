-- Say what there is of each of several breakers, without a policy, and change nothing.
--
-- KEYS per breaker: the block of ten.
-- Returns per breaker: a view (ok, missing, ext: somebody SET the state), the window that it counts in (ms; the
--   longest of the fleet; 0 if nothing is counted) and the operator's note.
-- Invariants: nothing is written, garbage is named where `read` would repair it.
-- Called by the command line, which is no replica.

local KEYS_EACH = 10

local replies = {}
for i = 0, #KEYS / KEYS_EACH - 1 do
  local key = block(i * KEYS_EACH + 1)
  local got = redis.call('MGET', key.epoch, key.state, key.window, key.probes, key.override)
  local e = parse(got[1])
  local status, hand, counts, probes, span = 'missing', nil, nil, nil, 0
  if e then
    local ordered = e.mode ~= '-' and e.mode_till > now
    if STATES[got[2] or ''] and got[2] ~= e.state and not ordered then hand = got[2] end
    local w, p = load_window(got[3], e.token), prune(load_probes(got[4]))
    status, span = hand and 'ext' or 'ok', w[2]
    local calls, failures, slow = age_window(w, span)
    counts = {calls, failures, slow, w[6], w[5], math.max(0, w[8] - now)}
    probes = {p[1] == e.token and p[2] or 0, p[1] == e.token and p[3] or 0, (#p - PROBES) / 2}
  end
  local reply = view(status, e, hand, got[1] and not e and 'epoch' or '', counts, probes)
  reply[#reply + 1], reply[#reply + 2] = span, got[5] or ''
  replies[i + 1] = reply
end
return replies
