"""What the server does in one step, and the keys of a journal there.

`<name>:meta` is a hash: `epoch` counts who has taken the journal, `taken` names the last one who did, as a server that
came back older counts the same again; `group` counts the commits of that epoch, `last` is the highest number that was
given, `key` makes tickets' secrets, `version` and `columns` say how items are written.
`<name>:items` is the stream: one entry for each item that is kept, its last one; `<name>:heads` has their ids by
number. `<name>:requests` and `<name>:results` are the bodies by number. `<name>:owner` is who serves it, and expires.
An entry's id is `<epoch>-<count>`. All keys of a scope lie in one hash slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ABSENT: Final = -1
GONE: Final = 0  # of what is owned: another one has it
STORED: Final = 1
STORED_BEFORE: Final = 2
TAKEN: Final = 0

# KEYS: owner, meta, journals. ARGV: me, milliseconds, another owner who may be followed or "", journal, begin, key,
# version, columns, this take's name. Answers the epoch, or TAKEN, or ABSENT.
# A server whose memory is full refuses a script's first write where that needs room, and none after one that does not:
# PEXPIRE lets a journal be kept and taken there all the same, so that what it has can end. None can be begun.
TAKE: Final = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] and owner ~= ARGV[3] then
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  if ARGV[5] == '' then
    redis.call('SREM', KEYS[3], ARGV[4])
    return -1
  end
  redis.call('HSET', KEYS[2], 'key', ARGV[6], 'version', ARGV[7], 'columns', ARGV[8], 'last', '0', 'group', '0')
  redis.call('SADD', KEYS[3], ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], 'group', '0', 'taken', ARGV[9])
return redis.call('HINCRBY', KEYS[2], 'epoch', 1)
"""

# KEYS: owner, meta. ARGV: me, milliseconds, epoch, this take's name. Answers STORED, GONE, or ABSENT: the server knows
# less than it did.
RENEW: Final = """
local owner = redis.call('GET', KEYS[1])
local known = redis.call('HMGET', KEYS[2], 'epoch', 'taken')
if tonumber(known[1] or '0') < tonumber(ARGV[3]) then
  return -1
end
if (owner and owner ~= ARGV[1]) or known[1] ~= ARGV[3] or known[2] ~= ARGV[4] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: owner, meta, journals, and what else is the journal's. ARGV: me, epoch, this take's name, journal, remove.
# What of this take is on its way still, a renewal or a commit, finds another epoch.
RELEASE: Final = """
local known = redis.call('HMGET', KEYS[2], 'epoch', 'taken')
if known[1] ~= ARGV[2] or known[2] ~= ARGV[3] then
  return 0
end
if ARGV[5] ~= '' then
  redis.call('SREM', KEYS[3], ARGV[4])
  redis.call('UNLINK', KEYS[2], unpack(KEYS, 4))
end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
if ARGV[5] == '' then
  redis.call('HINCRBY', KEYS[2], 'epoch', 1)
end
return 1
"""

# KEYS: meta, items, heads, requests, results. ARGV: epoch, group, last number, count of entries before, whether there
# are bodies, this take's name; then for each change its number, its row ("": it goes), what becomes of bodies, and
# these. Answers STORED, STORED_BEFORE, GONE (another one's turn) or ABSENT (commits that came before are not there).
# All is checked before the first write, as a script that fails is not undone: a server whose memory is full refuses the
# first write, or none. Where there are bodies it is one that needs room, else one that does not, so that what goes can.
APPEND: Final = """
local meta, items, heads, requests, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known = redis.call('HMGET', meta, 'epoch', 'group', 'last', 'taken')
if not known[1] or tonumber(known[1]) < tonumber(ARGV[1]) then
  return -1
end
if known[1] ~= ARGV[1] or known[4] ~= ARGV[6] then
  return 0
end
if known[2] == ARGV[2] then
  redis.call('HSET', meta, 'group', ARGV[2])
  return 2
end
if tonumber(known[2]) ~= tonumber(ARGV[2]) - 1 then
  return -1
end
if ARGV[5] == '1' then
  redis.call('HSET', meta, 'last', known[3])
else
  redis.call('HDEL', heads, '')
end
local at, count = 7, tonumber(ARGV[4])
while at <= #ARGV do
  local number, row, bodies = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local head = redis.call('HGET', heads, number)
  if head then
    redis.call('XDEL', items, head)
  end
  if row == '' then
    redis.call('HDEL', heads, number)
    redis.call('HDEL', requests, number)
    redis.call('HDEL', results, number)
  else
    count = count + 1
    local id = ARGV[1] .. '-' .. string.format('%.0f', count)
    redis.call('XADD', items, id, 'i', row)
    redis.call('HSET', heads, number, id)
    if string.find(bodies, 'q', 1, true) then
      redis.call('HSET', requests, number, ARGV[at])
      at = at + 1
    end
    if string.find(bodies, 'r', 1, true) then
      redis.call('HSET', results, number, ARGV[at])
      at = at + 1
    end
    if string.find(bodies, 'd', 1, true) then
      redis.call('HDEL', requests, number)
    end
  end
end
if tonumber(ARGV[3]) > tonumber(known[3]) then
  redis.call('HSET', meta, 'last', ARGV[3])
end
redis.call('HSET', meta, 'group', ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """Of one who took a journal, until the next one does."""

    epoch: int
    name: str  # of nobody else's, ever


@dataclass(frozen=True, slots=True)
class Keys:
    """Of one journal."""

    scope: str
    journal: str

    def _of(self, what: str) -> str:
        return f"mesh:{{{self.scope}}}:{self.journal}:{what}"

    @property
    def journals(self) -> str:
        return journals_key(self.scope)

    @property
    def owner(self) -> str:
        return self._of("owner")

    @property
    def meta(self) -> str:
        return self._of("meta")

    @property
    def items(self) -> str:
        return self._of("items")

    @property
    def heads(self) -> str:
        return self._of("heads")

    @property
    def requests(self) -> str:
        return self._of("requests")

    @property
    def results(self) -> str:
        return self._of("results")


def journals_key(scope: str) -> str:
    """The set of the names of a scope's journals."""
    return f"mesh:{{{scope}}}:journals"
