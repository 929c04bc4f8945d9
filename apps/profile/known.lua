-- Add answers of auth's for one user to those that may be the last; the rule is explained in known.py.
-- KEYS   1 the user's record: a hash, each field the roles of an answer (JSON, - for a refusal),
--          each value "asked answered expires" (µs by this clock)
--        2 since when nothing that was written has been lost (µs), made by the first who asks
-- ARGV   1 life of the record (ms), then for each answer: roles, asked, answered, expires (µs by this clock);
--        without an answer nothing is written but key 2, where that can be
-- Returns now (µs), what key 2 holds or '' where it cannot, then for each answer that may be the last: roles, "asked answered expires".
-- Keeps: an answer is only forgotten for one that was certainly asked for after it had arrived. No time is in the
--        future: what a failover's other clock has written is taken for as late as now.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local MOST_AT_ONCE, NEVER = 8, 9007199254740992

local function both(one, other, roles)
  return {roles = roles, asked = math.max(one.asked, other.asked),
    answered = math.max(one.answered, other.answered), expires = math.min(one.expires, other.expires)}
end

local function add(known, new)
  local kept, asked = {}, new.asked
  for _, old in ipairs(known) do
    if old.asked > new.answered then
      return known
    end
  end
  for _, old in ipairs(known) do
    if old.answered >= asked and old.roles == new.roles then
      new = both(old, new, new.roles)
    elseif old.answered >= asked then
      kept[#kept + 1] = old
    end
  end
  if #kept < MOST_AT_ONCE then
    kept[#kept + 1] = new
    return kept
  end
  for _, old in ipairs(kept) do
    new = both(old, new, '-')
  end
  return {new}
end

local function text(answer)
  return string.format('%.0f %.0f %.0f', answer.asked, answer.answered, answer.expires)
end

local known = {}
local found = {}
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  found = redis.call('HGETALL', KEYS[1])
end
for i = 1, #found, 2 do
  local asked, answered, expires = string.match(found[i + 1], '^(%d+) (%d+) (%d+)$')
  if asked then
    known[#known + 1] = {roles = found[i], asked = math.min(tonumber(asked), now),
      answered = math.min(tonumber(answered), now), expires = math.min(tonumber(expires), NEVER)}
  end
end
for i = 2, #ARGV, 4 do
  known = add(known, {roles = ARGV[i], asked = math.min(tonumber(ARGV[i + 1]), now),
    answered = math.min(tonumber(ARGV[i + 2]), now), expires = tonumber(ARGV[i + 3])})
end

local since = redis.call('TYPE', KEYS[2]).ok == 'string' and string.match(redis.call('GET', KEYS[2]), '^%d+$')
if not since then -- a full server can still be read
  local made = redis.pcall('SET', KEYS[2], string.format('%.0f', now), 'PX', 2 * ARGV[1])
  since = made.ok and string.format('%.0f', now) or ''
end
if #ARGV > 1 then
  redis.call('PEXPIRE', KEYS[2], 2 * ARGV[1])
  redis.call('DEL', KEYS[1])
end
local reply = {string.format('%.0f', now), since}
for _, answer in ipairs(known) do
  if #ARGV > 1 then
    redis.call('HSET', KEYS[1], answer.roles, text(answer))
  end
  reply[#reply + 1] = answer.roles
  reply[#reply + 1] = text(answer)
end
if #ARGV > 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return reply
