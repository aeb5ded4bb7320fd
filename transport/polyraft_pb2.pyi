from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEARIZABLE: _ClassVar[Consistency]
    LEASE: _ClassVar[Consistency]
    STALE: _ClassVar[Consistency]

class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OK: _ClassVar[Code]
    REJECTED: _ClassVar[Code]
    NO_SUCH_GROUP: _ClassVar[Code]
    NO_LEADER: _ClassVar[Code]
    NOT_LEADER: _ClassVar[Code]
    BUSY: _ClassVar[Code]
    TIMEOUT: _ClassVar[Code]
    BAD_REQUEST: _ClassVar[Code]
    SESSION_EXPIRED: _ClassVar[Code]
    APPLY_FAILED: _ClassVar[Code]
    READ_ONLY: _ClassVar[Code]
    FORBIDDEN: _ClassVar[Code]
    SHUTTING_DOWN: _ClassVar[Code]
    INTERNAL: _ClassVar[Code]
    UNAVAILABLE: _ClassVar[Code]
LINEARIZABLE: Consistency
LEASE: Consistency
STALE: Consistency
OK: Code
REJECTED: Code
NO_SUCH_GROUP: Code
NO_LEADER: Code
NOT_LEADER: Code
BUSY: Code
TIMEOUT: Code
BAD_REQUEST: Code
SESSION_EXPIRED: Code
APPLY_FAILED: Code
READ_ONLY: Code
FORBIDDEN: Code
SHUTTING_DOWN: Code
INTERNAL: Code
UNAVAILABLE: Code

class WriteRequest(_message.Message):
    __slots__ = ("group", "key", "data", "type", "operation", "extendInfo")
    class ExtendInfoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GROUP_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    EXTENDINFO_FIELD_NUMBER: _ClassVar[int]
    group: str
    key: str
    data: bytes
    type: str
    operation: str
    extendInfo: _containers.ScalarMap[str, str]
    def __init__(self, group: _Optional[str] = ..., key: _Optional[str] = ..., data: _Optional[bytes] = ..., type: _Optional[str] = ..., operation: _Optional[str] = ..., extendInfo: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("group", "data", "extendInfo")
    class ExtendInfoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    EXTENDINFO_FIELD_NUMBER: _ClassVar[int]
    group: str
    data: bytes
    extendInfo: _containers.ScalarMap[str, str]
    def __init__(self, group: _Optional[str] = ..., data: _Optional[bytes] = ..., extendInfo: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("data", "errMsg", "success")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ERRMSG_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    errMsg: str
    success: bool
    def __init__(self, data: _Optional[bytes] = ..., errMsg: _Optional[str] = ..., success: _Optional[bool] = ...) -> None: ...

class Read(_message.Message):
    __slots__ = ("request", "consistency", "min_index")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    request: ReadRequest
    consistency: Consistency
    min_index: int
    def __init__(self, request: _Optional[_Union[ReadRequest, _Mapping]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_index: _Optional[int] = ...) -> None: ...

class Admin(_message.Message):
    __slots__ = ("command", "value", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    command: str
    value: str
    options: _containers.ScalarMap[str, str]
    def __init__(self, command: _Optional[str] = ..., value: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloseSession(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Request(_message.Message):
    __slots__ = ("session", "sequence", "timeout_ms", "acknowledged", "write", "read", "admin", "open_session", "close_session")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    sequence: int
    timeout_ms: int
    acknowledged: int
    write: WriteRequest
    read: Read
    admin: Admin
    open_session: OpenSession
    close_session: CloseSession
    def __init__(self, session: _Optional[int] = ..., sequence: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., acknowledged: _Optional[int] = ..., write: _Optional[_Union[WriteRequest, _Mapping]] = ..., read: _Optional[_Union[Read, _Mapping]] = ..., admin: _Optional[_Union[Admin, _Mapping]] = ..., open_session: _Optional[_Union[OpenSession, _Mapping]] = ..., close_session: _Optional[_Union[CloseSession, _Mapping]] = ...) -> None: ...

class RequestBatch(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Request]
    def __init__(self, requests: _Optional[_Iterable[_Union[Request, _Mapping]]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("response", "code", "maybe_applied", "leader", "index", "retry_after_ms", "leader_address", "session")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MAYBE_APPLIED_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    response: Response
    code: Code
    maybe_applied: bool
    leader: str
    index: int
    retry_after_ms: int
    leader_address: str
    session: int
    def __init__(self, response: _Optional[_Union[Response, _Mapping]] = ..., code: _Optional[_Union[Code, str]] = ..., maybe_applied: _Optional[bool] = ..., leader: _Optional[str] = ..., index: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., leader_address: _Optional[str] = ..., session: _Optional[int] = ...) -> None: ...

class ReplyBatch(_message.Message):
    __slots__ = ("replies", "whole")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    whole: bool
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ..., whole: _Optional[bool] = ...) -> None: ...

class RequestView(_message.Message):
    __slots__ = ("session", "sequence", "timeout_ms", "acknowledged", "write", "read", "admin", "open_session", "close_session")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    sequence: int
    timeout_ms: int
    acknowledged: int
    write: bytes
    read: Read
    admin: Admin
    open_session: OpenSession
    close_session: CloseSession
    def __init__(self, session: _Optional[int] = ..., sequence: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., acknowledged: _Optional[int] = ..., write: _Optional[bytes] = ..., read: _Optional[_Union[Read, _Mapping]] = ..., admin: _Optional[_Union[Admin, _Mapping]] = ..., open_session: _Optional[_Union[OpenSession, _Mapping]] = ..., close_session: _Optional[_Union[CloseSession, _Mapping]] = ...) -> None: ...

class RequestBatchView(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RequestView]
    def __init__(self, requests: _Optional[_Iterable[_Union[RequestView, _Mapping]]] = ...) -> None: ...
