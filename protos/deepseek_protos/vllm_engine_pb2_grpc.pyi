# ruff: noqa
# fmt: off
"""Types of the generated stubs; written by deepseek_protos.generate."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio

from deepseek_protos import vllm_engine_pb2 as _messages

class VllmEngineStub:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
    Generate: grpc.UnaryStreamMultiCallable[_messages.GenerateRequest, _messages.GenerateResponse]
    Embed: grpc.UnaryUnaryMultiCallable[_messages.EmbedRequest, _messages.EmbedResponse]
    HealthCheck: grpc.UnaryUnaryMultiCallable[_messages.HealthCheckRequest, _messages.HealthCheckResponse]
    Abort: grpc.UnaryUnaryMultiCallable[_messages.AbortRequest, _messages.AbortResponse]
    GetModelInfo: grpc.UnaryUnaryMultiCallable[_messages.GetModelInfoRequest, _messages.GetModelInfoResponse]
    GetServerInfo: grpc.UnaryUnaryMultiCallable[_messages.GetServerInfoRequest, _messages.GetServerInfoResponse]
    GetLoads: grpc.UnaryUnaryMultiCallable[_messages.GetLoadsRequest, _messages.GetLoadsResponse]
    GetTokenizer: grpc.UnaryStreamMultiCallable[_messages.GetTokenizerRequest, _messages.GetTokenizerChunk]

class VllmEngineAsyncStub:
    # For type checkers only: the class at run time is the one above.
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    Generate: grpc.aio.UnaryStreamMultiCallable[_messages.GenerateRequest, _messages.GenerateResponse]
    Embed: grpc.aio.UnaryUnaryMultiCallable[_messages.EmbedRequest, _messages.EmbedResponse]
    HealthCheck: grpc.aio.UnaryUnaryMultiCallable[_messages.HealthCheckRequest, _messages.HealthCheckResponse]
    Abort: grpc.aio.UnaryUnaryMultiCallable[_messages.AbortRequest, _messages.AbortResponse]
    GetModelInfo: grpc.aio.UnaryUnaryMultiCallable[_messages.GetModelInfoRequest, _messages.GetModelInfoResponse]
    GetServerInfo: grpc.aio.UnaryUnaryMultiCallable[_messages.GetServerInfoRequest, _messages.GetServerInfoResponse]
    GetLoads: grpc.aio.UnaryUnaryMultiCallable[_messages.GetLoadsRequest, _messages.GetLoadsResponse]
    GetTokenizer: grpc.aio.UnaryStreamMultiCallable[_messages.GetTokenizerRequest, _messages.GetTokenizerChunk]

class VllmEngineServicer:
    def Generate(
        self,
        request: _messages.GenerateRequest,
        context: grpc.aio.ServicerContext[_messages.GenerateRequest, _messages.GenerateResponse],
    ) -> AsyncIterator[_messages.GenerateResponse]: ...
    async def Embed(
        self,
        request: _messages.EmbedRequest,
        context: grpc.aio.ServicerContext[_messages.EmbedRequest, _messages.EmbedResponse],
    ) -> _messages.EmbedResponse: ...
    async def HealthCheck(
        self,
        request: _messages.HealthCheckRequest,
        context: grpc.aio.ServicerContext[_messages.HealthCheckRequest, _messages.HealthCheckResponse],
    ) -> _messages.HealthCheckResponse: ...
    async def Abort(
        self,
        request: _messages.AbortRequest,
        context: grpc.aio.ServicerContext[_messages.AbortRequest, _messages.AbortResponse],
    ) -> _messages.AbortResponse: ...
    async def GetModelInfo(
        self,
        request: _messages.GetModelInfoRequest,
        context: grpc.aio.ServicerContext[_messages.GetModelInfoRequest, _messages.GetModelInfoResponse],
    ) -> _messages.GetModelInfoResponse: ...
    async def GetServerInfo(
        self,
        request: _messages.GetServerInfoRequest,
        context: grpc.aio.ServicerContext[_messages.GetServerInfoRequest, _messages.GetServerInfoResponse],
    ) -> _messages.GetServerInfoResponse: ...
    async def GetLoads(
        self,
        request: _messages.GetLoadsRequest,
        context: grpc.aio.ServicerContext[_messages.GetLoadsRequest, _messages.GetLoadsResponse],
    ) -> _messages.GetLoadsResponse: ...
    def GetTokenizer(
        self,
        request: _messages.GetTokenizerRequest,
        context: grpc.aio.ServicerContext[_messages.GetTokenizerRequest, _messages.GetTokenizerChunk],
    ) -> AsyncIterator[_messages.GetTokenizerChunk]: ...

def add_VllmEngineServicer_to_server(
    servicer: VllmEngineServicer, server: grpc.aio.Server | grpc.Server
) -> None: ...
