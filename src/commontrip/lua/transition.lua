-- Make a transition, if the epoch is still the one it was decided in.
--
-- KEYS: the block of ten.
-- ARGV: name, expected epoch id ('' = nothing there), token, to, remaining (ms), cooldown (ms), opens, reason, replica,
--   failures, calls, error, cause, decided at (0 = of any age), greatest age (ms), floor, incarnation if there is
--   none, override or -, override for (ms), note, previous id or -.
-- Returns a view: won (also when repeated), lost, stale (decided on facts too old), ext (somebody SET the state).
-- Invariants: one winner per epoch; a repeated call makes nothing new.
-- Called by the replica whose policy has decided, and by overrides, SETs by hand and re-assertions.

local key = block(1)
local e, hand, mended = open(key)
local name, expected, token, to, reason = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[11]
local by_hand = reason == 'external'

if e and e.token == token then return view('won', e, nil, mended) end
if (e and e.id or '') ~= expected then return view('lost', e, hand, mended) end
if hand and not by_hand and reason ~= 'override' then return view('ext', e, hand, mended) end
if by_hand and hand ~= to then return view('lost', e, hand, mended) end
local decided = tonumber(ARGV[17])
if decided > 0 and math.abs(now - decided) > tonumber(ARGV[18]) then return view('stale', e, nil, mended) end

local made = commit(key, name, e, to, {
  token = token, remaining = tonumber(ARGV[8]), cooldown = tonumber(ARGV[9]), opens = tonumber(ARGV[10]),
  reason = reason, replica = ARGV[12], failures = tonumber(ARGV[13]), calls = tonumber(ARGV[14]),
  error = ARGV[15], cause = ARGV[16], floor = tonumber(ARGV[19]), inc = ARGV[20],
  mode = ARGV[21], mode_for = tonumber(ARGV[22]), note = ARGV[23], previous = ARGV[24] ~= '-' and ARGV[24] or nil,
})
return view('won', made, nil, mended)
