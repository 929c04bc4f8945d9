-- Put before every script: the clock, the epoch record, and the repairs that precede any other work.
--
-- KEYS of one breaker come as a block of ten: epoch state failures lastFailure cooldown window probes
--   transitions override learned (`record` and `learned` name fewer; see there).
-- ARGV[1] base TTL (ms), ARGV[2] channel, ARGV[3] longest stream, then the script's own. All times in ms.
-- A record is one line, its fields apart by a space, `-` for an empty one:
--   incarnation.number.token state since until cooldown opens override override_until
--   reason replica failures calls previous previous_state previous_since error cause
-- Invariants: the record in `epoch` is the truth, written by one SET; `state`, `cooldown` and `failures` are
--   derived from it. Strings are read by MGET, which answers nothing for a wrong type instead of failing, and
--   written by SET, which replaces any type: no read can stop a script half way.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local BASE, CHANNEL, LONGEST = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local STATES = {CLOSED = true, OPEN = true, HALF_OPEN = true}
local MODES = {['-'] = true, FORCED_OPEN = true, DISABLED = true, OBSERVE = true}
local RECORD = '^(([%da-f]+)%.(%d+)%.([%da-f]+)) ([%u_]+) (%d+) (%d+) (%d+) (%d+) ([%u_-]+) (%d+)'
  .. ' (%S+ %S+ (%d+) (%d+) %S+ [%u_-]+ (%d+) %S+ %S+)$'
-- What people write may be anything. `_transition.py` has the same limits, so that what is garbage there is so here.
local LONGEST_RECORD, LONGEST_FIELD, LONGEST_TOKEN, LARGEST, MOST_OPENS = 1000, 300, 64, 1e15, 1e6

local function fits(value) return type(value) == 'number' and value >= 0 and value <= LARGEST end

-- Lua's own tostring turns a time in ms into 1.7e+12.
local function text(number) return string.format('%.0f', number) end

local function parse(record)
  if not record or #record > LONGEST_RECORD then return nil end
  local id, inc, n, token, state, since, till, cooldown, opens, mode, mode_till, rest, failures, calls, before =
    string.match(record, RECORD)
  if not (STATES[state or ''] and MODES[mode]) then return nil end
  if text(tonumber(n)) ~= n or #inc > LONGEST_TOKEN or #token > LONGEST_TOKEN then return nil end
  if #rest > LONGEST_FIELD then
    for field in string.gmatch(rest, '%S+') do
      if #field > LONGEST_FIELD then return nil end
    end
  end
  for _, number in ipairs({n, since, till, cooldown, opens, mode_till, failures, calls, before}) do
    if #number > LONGEST_FIELD or tonumber(number) > LARGEST then return nil end
  end
  if tonumber(opens) > MOST_OPENS then return nil end
  return {
    record = record, id = id, inc = inc, n = tonumber(n), token = token, state = state, since = tonumber(since),
    till = tonumber(till), cooldown = tonumber(cooldown), opens = tonumber(opens),
    mode = mode, mode_till = tonumber(mode_till), rest = rest, failures = failures,
  }
end

local function block(first)
  return {
    epoch = KEYS[first], state = KEYS[first + 1], failures = KEYS[first + 2], last = KEYS[first + 3],
    cooldown = KEYS[first + 4], window = KEYS[first + 5], probes = KEYS[first + 6],
    transitions = KEYS[first + 7], override = KEYS[first + 8], learned = KEYS[first + 9],
  }
end

-- What there is: the epoch (nil if none), the state somebody has SET by hand (nil if none), and what was mended.
local function judge(key, record, state)
  local e, mended = parse(record), ''
  if not e then return nil, nil, record and 'epoch' or '' end
  local ttl = BASE + e.cooldown
  -- After a failover the clock may have gone back: nothing may last longer than it was meant to.
  if (e.state == 'OPEN' and e.till - now > e.cooldown) or (e.mode ~= '-' and e.mode_till - now > e.cooldown) then
    if e.state == 'OPEN' then e.till = now + e.cooldown end
    if e.mode ~= '-' then e.mode_till = now + e.cooldown end
    e.record = table.concat({e.id, e.state, text(math.min(e.since, now)), text(e.till), text(e.cooldown),
      text(e.opens), e.mode, text(e.mode_till), e.rest}, ' ')
    redis.call('SET', key.epoch, e.record, 'PX', ttl)
    mended = 'clock'
  end
  if e.mode ~= '-' and e.mode_till <= now then e.mode = '-' end
  if state ~= e.state then
    if STATES[state or ''] and e.mode == '-' then return e, state, mended end
    redis.call('SET', key.state, e.state, 'PX', ttl)
    mended = 'state'
  end
  return e, nil, mended
end

local function open(key)
  local got = redis.call('MGET', key.epoch, key.state)
  return judge(key, got[1], got[2])
end

-- One reply for all scripts: status record now by-hand mended | counts | probes.
local function view(status, e, hand, mended, counts, probes)
  local c, p = counts or {0, 0, 0, 0, 0, 0}, probes or {0, 0, 0}
  return {status, e and e.record or '', now, hand or '', mended,
    c[1], c[2], c[3], c[4], c[5], c[6], p[1], p[2], p[3]}
end
