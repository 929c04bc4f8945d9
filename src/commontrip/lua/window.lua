-- The window: counts of one epoch in buckets, with the runs of failures and the dependency's Retry-After.
--
-- One packed array: token keep refreshed last run peak peak_at retry_after, then start calls failures slow per bucket.
-- Invariants: counts of another epoch are not counts; of the future (a clock gone back) buckets are dropped, and the
--   Retry-After lasts as long as it still had to when the last batch came;
--   replicas with different windows share the buckets, each sums what is not older than its own window.

local HEAD = 8

local function load_window(raw, token)
  local ok, w = pcall(cmsgpack.unpack, raw or '')
  local sound = ok and type(w) == 'table' and type(w[1]) == 'string' and #w >= HEAD and (#w - HEAD) % 4 == 0
  for i = 2, sound and #w or 0 do sound = sound and fits(w[i]) end
  if sound and w[1] == token then return w, true end
  return {token, 0, 0, 0, 0, 0, 0, 0}, sound or not raw
end

-- (load_window also says whether what it found was sound.) Forget what is too old, in place; return calls, failures and slow calls of the last `span` ms.
local function age_window(w, span)
  if w[2] < span then w[2] = span end
  local calls, failures, slow, to = 0, 0, 0, HEAD
  for i = HEAD + 1, #w, 4 do
    local start = w[i]
    if start > now - w[2] and start <= now then
      if start > now - span then
        calls, failures, slow = calls + w[i + 1], failures + w[i + 2], slow + w[i + 3]
      end
      if to + 1 < i then w[to + 1], w[to + 2], w[to + 3], w[to + 4] = start, w[i + 1], w[i + 2], w[i + 3] end
      to = to + 4
    end
  end
  for i = #w, to + 1, -1 do w[i] = nil end
  if w[4] > now then w[8] = now + math.max(0, w[8] - w[4]) end
  if now - w[4] > span or w[4] > now then w[5] = 0 end
  if now - w[7] > span or w[7] > now then w[6] = w[5] end
  return calls, failures, slow
end
