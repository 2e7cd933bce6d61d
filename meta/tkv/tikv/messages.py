"""The messages of PD and TiKV that we send and understand, as protobuf classes. Not the calls (rpc, pd).

Each line of the tables is a field of the published interface (kvproto: pdpb, metapb, errorpb, kvrpcpb): its number, its
type and its name; `*` means repeated. Fields that nobody here reads are left out: protobuf skips what it does not know.
The classes are made when this module is imported, so that nothing has to be generated or compiled.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_SCALARS: Final = {"bytes": 12, "string": 9, "u64": 4, "i64": 3, "u32": 13, "i32": 5, "bool": 8, "enum": 5}
"""Our names of types, and protobuf's numbers of them. An enumeration is a number on the wire."""

_METAPB: Final = """
RegionEpoch: 1 u64 conf_ver, 2 u64 version
Peer: 1 u64 id, 2 u64 store_id, 3 enum role
Region: 1 u64 id, 2 bytes start_key, 3 bytes end_key, 4 RegionEpoch region_epoch, 5* Peer peers
Store: 1 u64 id, 2 string address, 3 enum state, 5 string version
"""

_PDPB: Final = """
RequestHeader: 1 u64 cluster_id
PdError: 1 enum type, 2 string message
ResponseHeader: 1 u64 cluster_id, 2 PdError error
Member: 1 string name, 2 u64 member_id, 4* string client_urls
GetMembersRequest: 1 RequestHeader header
GetMembersResponse: 1 ResponseHeader header, 2* Member members, 3 Member leader
Timestamp: 1 i64 physical, 2 i64 logical, 3 u32 suffix_bits
TsoRequest: 1 RequestHeader header, 2 u32 count
TsoResponse: 1 ResponseHeader header, 2 u32 count, 3 Timestamp timestamp
GetRegionRequest: 1 RequestHeader header, 2 bytes region_key
GetRegionResponse: 1 ResponseHeader header, 2 Region region, 3 Peer leader
GetStoreRequest: 1 RequestHeader header, 2 u64 store_id
GetStoreResponse: 1 ResponseHeader header, 2 Store store
GetGCSafePointRequest: 1 RequestHeader header
GetGCSafePointResponse: 1 ResponseHeader header, 2 u64 safe_point
UpdateGCSafePointRequest: 1 RequestHeader header, 2 u64 safe_point
UpdateGCSafePointResponse: 1 ResponseHeader header, 2 u64 new_safe_point
UpdateServiceGCSafePointRequest: 1 RequestHeader header, 2 bytes service_id, 3 i64 TTL, 4 u64 safe_point
UpdateServiceGCSafePointResponse: 1 ResponseHeader header, 2 bytes service_id, 3 i64 TTL, 4 u64 min_safe_point
"""

_ERRORPB: Final = """
NotLeader: 1 u64 region_id, 2 Peer leader
RegionNotFound: 1 u64 region_id
KeyNotInRegion: 1 bytes key, 2 u64 region_id
EpochNotMatch: 1* Region current_regions
ServerIsBusy: 1 string reason, 2 u64 backoff_ms
StaleCommand:
StoreNotMatch: 1 u64 request_store_id, 2 u64 actual_store_id
RaftEntryTooLarge: 1 u64 region_id, 2 u64 entry_size
DiskFull: 1* u64 store_id, 2 string reason
RegionError: 1 string message, 2 NotLeader not_leader, 3 RegionNotFound region_not_found, \
4 KeyNotInRegion key_not_in_region, 5 EpochNotMatch epoch_not_match, 6 ServerIsBusy server_is_busy, \
7 StaleCommand stale_command, 8 StoreNotMatch store_not_match, 9 RaftEntryTooLarge raft_entry_too_large, \
15 DiskFull disk_full
"""

_KVRPCPB: Final = """
Context: 1 u64 region_id, 2 RegionEpoch region_epoch, 3 Peer peer, 6 enum priority, 7 enum isolation_level, \
8 bool not_fill_cache, 13* u64 resolved_locks, 14 u64 max_execution_duration_ms, 20 bool is_retry_request
LockInfo: 1 bytes primary_lock, 2 u64 lock_version, 3 bytes key, 4 u64 lock_ttl, 5 u64 txn_size, 6 enum lock_type, \
8 bool use_async_commit, 9 u64 min_commit_ts, 10* bytes secondaries
WriteConflict: 1 u64 start_ts, 2 u64 conflict_ts, 3 bytes key, 4 bytes primary, 5 u64 conflict_commit_ts
AlreadyExist: 1 bytes key
CommitTsExpired: 1 u64 start_ts, 2 u64 attempted_commit_ts, 3 bytes key, 4 u64 min_commit_ts
TxnNotFound: 1 u64 start_ts, 2 bytes primary_key
KeyError: 1 LockInfo locked, 2 string retryable, 3 string abort, 4 WriteConflict conflict, \
5 AlreadyExist already_exist, 7 CommitTsExpired commit_ts_expired, 8 TxnNotFound txn_not_found
KvPair: 1 KeyError error, 2 bytes key, 3 bytes value
GetRequest: 1 Context context, 2 bytes key, 3 u64 version
GetResponse: 1 RegionError region_error, 2 KeyError error, 3 bytes value, 4 bool not_found
BatchGetRequest: 1 Context context, 2* bytes keys, 3 u64 version
BatchGetResponse: 1 RegionError region_error, 2* KvPair pairs, 5 KeyError error
ScanRequest: 1 Context context, 2 bytes start_key, 3 u32 limit, 4 u64 version, 5 bool key_only, 7 bytes end_key
ScanResponse: 1 RegionError region_error, 2* KvPair pairs, 3 KeyError error
Mutation: 1 enum op, 2 bytes key, 3 bytes value
PrewriteRequest: 1 Context context, 2* Mutation mutations, 3 bytes primary_lock, 4 u64 start_version, \
5 u64 lock_ttl, 8 u64 txn_size, 10 u64 min_commit_ts, 11 bool use_async_commit, 12* bytes secondaries, \
13 bool try_one_pc
PrewriteResponse: 1 RegionError region_error, 2* KeyError errors, 3 u64 min_commit_ts, 4 u64 one_pc_commit_ts
CommitRequest: 1 Context context, 2 u64 start_version, 3* bytes keys, 4 u64 commit_version
CommitResponse: 1 RegionError region_error, 2 KeyError error, 3 u64 commit_version
BatchRollbackRequest: 1 Context context, 2 u64 start_version, 3* bytes keys
BatchRollbackResponse: 1 RegionError region_error, 2 KeyError error
CheckTxnStatusRequest: 1 Context context, 2 bytes primary_key, 3 u64 lock_ts, 4 u64 caller_start_ts, \
5 u64 current_ts, 6 bool rollback_if_not_exist, 7 bool force_sync_commit
CheckTxnStatusResponse: 1 RegionError region_error, 2 KeyError error, 3 u64 lock_ttl, 4 u64 commit_version, \
5 enum action, 6 LockInfo lock_info
CheckSecondaryLocksRequest: 1 Context context, 2* bytes keys, 3 u64 start_version
CheckSecondaryLocksResponse: 1 RegionError region_error, 2 KeyError error, 3* LockInfo locks, 4 u64 commit_ts
ResolveLockRequest: 1 Context context, 2 u64 start_version, 3 u64 commit_version, 5* bytes keys
ResolveLockResponse: 1 RegionError region_error, 2 KeyError error
ScanLockRequest: 1 Context context, 2 u64 max_version, 3 bytes start_key, 4 u32 limit, 5 bytes end_key
ScanLockResponse: 1 RegionError region_error, 2 KeyError error, 3* LockInfo locks
TxnHeartBeatRequest: 1 Context context, 2 bytes primary_lock, 3 u64 start_version, 4 u64 advise_lock_ttl
TxnHeartBeatResponse: 1 RegionError region_error, 2 KeyError error, 3 u64 lock_ttl
"""

PUT: Final = 0
DELETE: Final = 1
LOCK: Final = 2
"""`Mutation.op`. A lock changes nothing, but collides with other writers of the key."""

MIN_COMMIT_TS_PUSHED: Final = 4
"""`CheckTxnStatusResponse.action`: the transaction will commit after `caller_start_ts`, and may be looked through."""

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "juicefs_py.tikv"


def _make() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="juicefs_py/tikv.proto", package=_PACKAGE, syntax="proto3")
    for line in (_METAPB + _PDPB + _ERRORPB + _KVRPCPB).strip().splitlines():
        if not line:
            continue
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for words in filter(None, (field.split() for field in fields.split(","))):
            _add_field(message, *words)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


def _add_field(message: Any, number: str, kind: str, name: str) -> None:
    field = message.field.add(name=name, number=int(number.rstrip("*")))
    field.label = _FIELD.LABEL_REPEATED if number.endswith("*") else _FIELD.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"


_CLASSES: Final = _make()


def message(name: str) -> Any:
    """The class of a message."""
    return _CLASSES[name]
