"""The Lua scripts of the Redis engine: one that applies any transaction, and a few that read.

Not what they are asked (transaction, reader). All keys of a volume lie in one hash slot, so a script may make up keys
from what it reads; `KEYS[1]` is only there to lead a cluster to the right node. Redis runs a script at one moment: what
it reads is one state, and others see all of its writes or none.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple


class Script(NamedTuple):
    """A script and the name under which Redis keeps it."""

    source: bytes
    sha: bytes


def _script(source: str) -> Script:
    data = source.strip().encode()
    return Script(data, hashlib.sha1(data, usedforsecurity=False).hexdigest().encode())


APPLY: Final = _script("""
-- Check that all that a transaction has read is still so; then write. KEYS[2]: the ticket (see meta.redis.once), if
-- there is anything to write. ARGV: the request's number on the ticket, the number of conditions, the conditions, the
-- writes. Answers the number of the first condition that does not hold, or a list: what 'M', 'R' and 'U' have answered.
local a, n, call, sub = ARGV, #ARGV, redis.call, string.sub
if KEYS[2] and call('GET', KEYS[2]) == 'void' then return -1 end
local i = 3
for c = 1, tonumber(a[2]) do
  local op, key = a[i], a[i + 1]
  if op == 'S' then -- a string is: value
    if call('GET', key) ~= a[i + 2] then return c end
    i = i + 3
  elseif op == 'D' then -- a directory is, but for its times and links: first 11 bytes, bytes from 52 on
    local v = call('GET', key)
    if not v or sub(v, 1, 11) ~= a[i + 2] or sub(v, 52) ~= a[i + 3] then return c end
    i = i + 4
  elseif op == 'F' then -- a field is: field, value
    if call('HGET', key, a[i + 2]) ~= a[i + 3] then return c end
    i = i + 4
  elseif op == 'E' then -- a field is not there: field
    if call('HEXISTS', key, a[i + 2]) == 1 then return c end
    i = i + 3
  elseif op == 'N' then -- a key is not there
    if call('EXISTS', key) == 1 then return c end
    i = i + 2
  elseif op == 'X' then -- a key is there
    if call('EXISTS', key) == 0 then return c end
    i = i + 2
  elseif op == 'H' then -- a hash is: number of fields, then fields and values
    local m = tonumber(a[i + 2])
    if call('HLEN', key) ~= m then return c end
    for j = i + 3, i + 1 + 2 * m, 2 do
      if call('HGET', key, a[j]) ~= a[j + 1] then return c end
    end
    i = i + 3 + 2 * m
  else -- 'L': the items of a list, joined, have this SHA-1
    if redis.sha1hex(table.concat(call('LRANGE', key, 0, -1))) ~= a[i + 2] then return c end
    i = i + 3
  end
end
local out = {}
while i <= n do
  local op = a[i]
  if op == 'M' then -- change a directory: key, first 11 bytes, atime, mtime, ctime ('' keeps), links to add, rest.
    -- Answers the record: others may have changed its times and links since it was read.
    local v = call('GET', a[i + 1])
    local times = ''
    for t = 0, 2 do
      local new = a[i + 3 + t]
      times = times .. (new ~= '' and new or sub(v, 12 + 12 * t, 23 + 12 * t))
    end
    local links = math.max(struct.unpack('>I4', sub(v, 48, 51)) + tonumber(a[i + 6]), 2)
    local new = a[i + 2] .. times .. struct.pack('>I4', links) .. a[i + 7]
    call('SET', a[i + 1], new)
    out[#out + 1] = new
    i = i + 8
  elseif op == 'A' then -- add to the fields of three hashes if the third one has it: keys, field, amounts
    if call('HEXISTS', a[i + 3], a[i + 4]) == 1 then
      for t = 0, 2 do call('HINCRBY', a[i + 1 + t], a[i + 4], a[i + 5 + t]) end
    end
    i = i + 8
  elseif op == 'Q' then -- add to a quota: keys of limits and uses, field, amounts, limits of a new one ('': none)
    if a[i + 7] ~= '' then call('HSETNX', a[i + 1], a[i + 4], a[i + 7]) end
    if call('HEXISTS', a[i + 1], a[i + 4]) == 1 then
      call('HINCRBY', a[i + 2], a[i + 4], a[i + 5])
      call('HINCRBY', a[i + 3], a[i + 4], a[i + 6])
    end
    i = i + 8
  elseif op == 'U' then -- add to two counters: keys, amounts
    out[#out + 1] = call('INCRBY', a[i + 1], a[i + 3])
    out[#out + 1] = call('INCRBY', a[i + 2], a[i + 4])
    i = i + 5
  else -- any command: 'W', or 'R' if the answer is wanted; the number of its words; its words
    local last = i + 1 + tonumber(a[i + 1])
    local answer = call(unpack(a, i + 2, last))
    if op == 'R' then out[#out + 1] = answer end
    i = last + 1
  end
end
if KEYS[2] then call('SET', KEYS[2], a[1], 'EX', 3600) end
return out
""")

VOID: Final = _script("""
-- Whether request ARGV[1] of the ticket KEYS[2] was applied: 1 or 0. If it was not it never will be. EXPIRE comes first
-- because it writes and needs no memory: a replica refuses it, and after it a server without memory refuses nothing.
local call = redis.call
call('EXPIRE', KEYS[2], 3600)
if call('GET', KEYS[2]) == ARGV[1] then return 1 end
call('SET', KEYS[2], 'void', 'EX', 3600)
return 0
""")

_INODE = """
local function inode(entry) -- the decimal number in a directory entry; nil where Lua's numbers are not exact
  local high, low = struct.unpack('>I4I4', sub(entry, 2, 9))
  if high < 2097152 then return string.format('%.0f', high * 4294967296 + low) end
end
"""

LOOKUP: Final = _script(f"""
-- Follow a name: KEYS[1] is the directory's hash, ARGV the prefix of keys and the name. Answers the entry, the inode
-- record and, for a directory, whether there is anything in it; what is missing is false, what cannot be told '?'.
local sub, call = string.sub, redis.call
{_INODE}
local entry = call('HGET', KEYS[1], ARGV[2])
if not entry then return {{}} end
local ino = inode(entry)
if not ino then return {{entry, '?'}} end
local record = call('GET', ARGV[1] .. 'i' .. ino)
if string.byte(entry) ~= 2 then return {{entry, record}} end
return {{entry, record, call('EXISTS', ARGV[1] .. 'd' .. ino)}}
""")

RESOLVE: Final = _script(f"""
-- Follow several names, from directory to directory: KEYS[1] is the first directory's hash, ARGV the prefix and the
-- names. Answers entries and inode records in turn, as far as there are any.
local sub, call = string.sub, redis.call
{_INODE}
local out, key = {{}}, KEYS[1]
for i = 2, #ARGV do
  local entry = call('HGET', key, ARGV[i])
  local ino = entry and inode(entry)
  if not ino then return out end
  out[#out + 1] = entry
  out[#out + 1] = call('GET', ARGV[1] .. 'i' .. ino)
  key = ARGV[1] .. 'd' .. ino
end
return out
""")

ANCESTRY: Final = _script("""
-- The inode records from a directory up to the root: KEYS[1] is the record of the first, ARGV the prefix, its number
-- and how many at the most. Answers numbers and records in turn.
local call, sub = redis.call, string.sub
local out, ino = {}, ARGV[2]
for _ = 1, tonumber(ARGV[3]) do
  local record = call('GET', ARGV[1] .. 'i' .. ino)
  out[#out + 1] = ino
  out[#out + 1] = record
  if not record or #record < 71 or ino == '1' then return out end
  local high, low = struct.unpack('>I4I4', sub(record, 64, 71))
  if high >= 2097152 then return out end
  ino = string.format('%.0f', high * 4294967296 + low)
  if ino == '0' then return out end
end
return out
""")

PAGE: Final = _script(f"""
-- A page of a directory with inode records: KEYS[1] is its hash, ARGV the prefix, the cursor and about how many.
-- Answers the next cursor, names and entries in turn, and the records ('?' for what cannot be told).
local sub, call = string.sub, redis.call
{_INODE}
local page = call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local items, records = page[2], {{}}
for i = 2, #items, 2 do
  local ino = inode(items[i])
  records[#records + 1] = ino and call('GET', ARGV[1] .. 'i' .. ino) or (not ino and '?')
end
return {{page[1], items, records}}
""")

CHANGES: Final = _script("""
-- Lines of the change log: KEYS[1] is the list, ARGV the key of the newest one's number, the number after which they
-- are wanted and how many at the most. Answers the newest one's number, that of the first given, and them.
local last, length = tonumber(redis.call('GET', ARGV[1]) or '0'), redis.call('LLEN', KEYS[1])
local first = math.max(last - length + 1, tonumber(ARGV[2]) + 1)
local at = first - (last - length + 1)
return {last, first, redis.call('LRANGE', KEYS[1], at, at + tonumber(ARGV[3]) - 1)}
""")

GATE: Final = _script("""
-- Set KEYS[1] to ARGV[1] if it is at most ARGV[2]; whether it was.
if tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
""")

READING: Final = (LOOKUP, RESOLVE, ANCESTRY, PAGE, CHANGES)
"""Scripts that change nothing: their calls may be repeated, and mixed with other reads in one round trip."""


def call(script: Script, key: bytes, *arguments: bytes | str | int) -> tuple[bytes | str | int, ...]:
    """The command that runs a script which the server knows."""
    return (b"EVALSHA", script.sha, 1, key, *arguments)
