# ruff: noqa
# fmt: off
"""Types of the generated stubs; written by deepseek_protos.generate."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio

from deepseek_protos import inference_pb2 as _messages

class GRPCInferenceServiceStub:
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
    ServerLive: grpc.UnaryUnaryMultiCallable[_messages.ServerLiveRequest, _messages.ServerLiveResponse]
    ServerReady: grpc.UnaryUnaryMultiCallable[_messages.ServerReadyRequest, _messages.ServerReadyResponse]
    ModelReady: grpc.UnaryUnaryMultiCallable[_messages.ModelReadyRequest, _messages.ModelReadyResponse]
    ServerMetadata: grpc.UnaryUnaryMultiCallable[_messages.ServerMetadataRequest, _messages.ServerMetadataResponse]
    ModelMetadata: grpc.UnaryUnaryMultiCallable[_messages.ModelMetadataRequest, _messages.ModelMetadataResponse]
    ModelInfer: grpc.UnaryUnaryMultiCallable[_messages.ModelInferRequest, _messages.ModelInferResponse]
    ModelStreamInfer: grpc.StreamStreamMultiCallable[_messages.ModelInferRequest, _messages.ModelStreamInferResponse]
    ModelConfig: grpc.UnaryUnaryMultiCallable[_messages.ModelConfigRequest, _messages.ModelConfigResponse]
    ModelStatistics: grpc.UnaryUnaryMultiCallable[_messages.ModelStatisticsRequest, _messages.ModelStatisticsResponse]
    RepositoryIndex: grpc.UnaryUnaryMultiCallable[_messages.RepositoryIndexRequest, _messages.RepositoryIndexResponse]
    RepositoryModelLoad: grpc.UnaryUnaryMultiCallable[_messages.RepositoryModelLoadRequest, _messages.RepositoryModelLoadResponse]
    RepositoryModelUnload: grpc.UnaryUnaryMultiCallable[_messages.RepositoryModelUnloadRequest, _messages.RepositoryModelUnloadResponse]
    SystemSharedMemoryStatus: grpc.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryStatusRequest, _messages.SystemSharedMemoryStatusResponse]
    SystemSharedMemoryRegister: grpc.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryRegisterRequest, _messages.SystemSharedMemoryRegisterResponse]
    SystemSharedMemoryUnregister: grpc.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryUnregisterRequest, _messages.SystemSharedMemoryUnregisterResponse]
    CudaSharedMemoryStatus: grpc.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryStatusRequest, _messages.CudaSharedMemoryStatusResponse]
    CudaSharedMemoryRegister: grpc.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryRegisterRequest, _messages.CudaSharedMemoryRegisterResponse]
    CudaSharedMemoryUnregister: grpc.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryUnregisterRequest, _messages.CudaSharedMemoryUnregisterResponse]
    TraceSetting: grpc.UnaryUnaryMultiCallable[_messages.TraceSettingRequest, _messages.TraceSettingResponse]
    LogSettings: grpc.UnaryUnaryMultiCallable[_messages.LogSettingsRequest, _messages.LogSettingsResponse]

class GRPCInferenceServiceAsyncStub:
    # For type checkers only: the class at run time is the one above.
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    ServerLive: grpc.aio.UnaryUnaryMultiCallable[_messages.ServerLiveRequest, _messages.ServerLiveResponse]
    ServerReady: grpc.aio.UnaryUnaryMultiCallable[_messages.ServerReadyRequest, _messages.ServerReadyResponse]
    ModelReady: grpc.aio.UnaryUnaryMultiCallable[_messages.ModelReadyRequest, _messages.ModelReadyResponse]
    ServerMetadata: grpc.aio.UnaryUnaryMultiCallable[_messages.ServerMetadataRequest, _messages.ServerMetadataResponse]
    ModelMetadata: grpc.aio.UnaryUnaryMultiCallable[_messages.ModelMetadataRequest, _messages.ModelMetadataResponse]
    ModelInfer: grpc.aio.UnaryUnaryMultiCallable[_messages.ModelInferRequest, _messages.ModelInferResponse]
    ModelStreamInfer: grpc.aio.StreamStreamMultiCallable[_messages.ModelInferRequest, _messages.ModelStreamInferResponse]
    ModelConfig: grpc.aio.UnaryUnaryMultiCallable[_messages.ModelConfigRequest, _messages.ModelConfigResponse]
    ModelStatistics: grpc.aio.UnaryUnaryMultiCallable[_messages.ModelStatisticsRequest, _messages.ModelStatisticsResponse]
    RepositoryIndex: grpc.aio.UnaryUnaryMultiCallable[_messages.RepositoryIndexRequest, _messages.RepositoryIndexResponse]
    RepositoryModelLoad: grpc.aio.UnaryUnaryMultiCallable[_messages.RepositoryModelLoadRequest, _messages.RepositoryModelLoadResponse]
    RepositoryModelUnload: grpc.aio.UnaryUnaryMultiCallable[_messages.RepositoryModelUnloadRequest, _messages.RepositoryModelUnloadResponse]
    SystemSharedMemoryStatus: grpc.aio.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryStatusRequest, _messages.SystemSharedMemoryStatusResponse]
    SystemSharedMemoryRegister: grpc.aio.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryRegisterRequest, _messages.SystemSharedMemoryRegisterResponse]
    SystemSharedMemoryUnregister: grpc.aio.UnaryUnaryMultiCallable[_messages.SystemSharedMemoryUnregisterRequest, _messages.SystemSharedMemoryUnregisterResponse]
    CudaSharedMemoryStatus: grpc.aio.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryStatusRequest, _messages.CudaSharedMemoryStatusResponse]
    CudaSharedMemoryRegister: grpc.aio.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryRegisterRequest, _messages.CudaSharedMemoryRegisterResponse]
    CudaSharedMemoryUnregister: grpc.aio.UnaryUnaryMultiCallable[_messages.CudaSharedMemoryUnregisterRequest, _messages.CudaSharedMemoryUnregisterResponse]
    TraceSetting: grpc.aio.UnaryUnaryMultiCallable[_messages.TraceSettingRequest, _messages.TraceSettingResponse]
    LogSettings: grpc.aio.UnaryUnaryMultiCallable[_messages.LogSettingsRequest, _messages.LogSettingsResponse]

class GRPCInferenceServiceServicer:
    async def ServerLive(
        self,
        request: _messages.ServerLiveRequest,
        context: grpc.aio.ServicerContext[_messages.ServerLiveRequest, _messages.ServerLiveResponse],
    ) -> _messages.ServerLiveResponse: ...
    async def ServerReady(
        self,
        request: _messages.ServerReadyRequest,
        context: grpc.aio.ServicerContext[_messages.ServerReadyRequest, _messages.ServerReadyResponse],
    ) -> _messages.ServerReadyResponse: ...
    async def ModelReady(
        self,
        request: _messages.ModelReadyRequest,
        context: grpc.aio.ServicerContext[_messages.ModelReadyRequest, _messages.ModelReadyResponse],
    ) -> _messages.ModelReadyResponse: ...
    async def ServerMetadata(
        self,
        request: _messages.ServerMetadataRequest,
        context: grpc.aio.ServicerContext[_messages.ServerMetadataRequest, _messages.ServerMetadataResponse],
    ) -> _messages.ServerMetadataResponse: ...
    async def ModelMetadata(
        self,
        request: _messages.ModelMetadataRequest,
        context: grpc.aio.ServicerContext[_messages.ModelMetadataRequest, _messages.ModelMetadataResponse],
    ) -> _messages.ModelMetadataResponse: ...
    async def ModelInfer(
        self,
        request: _messages.ModelInferRequest,
        context: grpc.aio.ServicerContext[_messages.ModelInferRequest, _messages.ModelInferResponse],
    ) -> _messages.ModelInferResponse: ...
    def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[_messages.ModelInferRequest],
        context: grpc.aio.ServicerContext[_messages.ModelInferRequest, _messages.ModelStreamInferResponse],
    ) -> AsyncIterator[_messages.ModelStreamInferResponse]: ...
    async def ModelConfig(
        self,
        request: _messages.ModelConfigRequest,
        context: grpc.aio.ServicerContext[_messages.ModelConfigRequest, _messages.ModelConfigResponse],
    ) -> _messages.ModelConfigResponse: ...
    async def ModelStatistics(
        self,
        request: _messages.ModelStatisticsRequest,
        context: grpc.aio.ServicerContext[_messages.ModelStatisticsRequest, _messages.ModelStatisticsResponse],
    ) -> _messages.ModelStatisticsResponse: ...
    async def RepositoryIndex(
        self,
        request: _messages.RepositoryIndexRequest,
        context: grpc.aio.ServicerContext[_messages.RepositoryIndexRequest, _messages.RepositoryIndexResponse],
    ) -> _messages.RepositoryIndexResponse: ...
    async def RepositoryModelLoad(
        self,
        request: _messages.RepositoryModelLoadRequest,
        context: grpc.aio.ServicerContext[_messages.RepositoryModelLoadRequest, _messages.RepositoryModelLoadResponse],
    ) -> _messages.RepositoryModelLoadResponse: ...
    async def RepositoryModelUnload(
        self,
        request: _messages.RepositoryModelUnloadRequest,
        context: grpc.aio.ServicerContext[_messages.RepositoryModelUnloadRequest, _messages.RepositoryModelUnloadResponse],
    ) -> _messages.RepositoryModelUnloadResponse: ...
    async def SystemSharedMemoryStatus(
        self,
        request: _messages.SystemSharedMemoryStatusRequest,
        context: grpc.aio.ServicerContext[_messages.SystemSharedMemoryStatusRequest, _messages.SystemSharedMemoryStatusResponse],
    ) -> _messages.SystemSharedMemoryStatusResponse: ...
    async def SystemSharedMemoryRegister(
        self,
        request: _messages.SystemSharedMemoryRegisterRequest,
        context: grpc.aio.ServicerContext[_messages.SystemSharedMemoryRegisterRequest, _messages.SystemSharedMemoryRegisterResponse],
    ) -> _messages.SystemSharedMemoryRegisterResponse: ...
    async def SystemSharedMemoryUnregister(
        self,
        request: _messages.SystemSharedMemoryUnregisterRequest,
        context: grpc.aio.ServicerContext[_messages.SystemSharedMemoryUnregisterRequest, _messages.SystemSharedMemoryUnregisterResponse],
    ) -> _messages.SystemSharedMemoryUnregisterResponse: ...
    async def CudaSharedMemoryStatus(
        self,
        request: _messages.CudaSharedMemoryStatusRequest,
        context: grpc.aio.ServicerContext[_messages.CudaSharedMemoryStatusRequest, _messages.CudaSharedMemoryStatusResponse],
    ) -> _messages.CudaSharedMemoryStatusResponse: ...
    async def CudaSharedMemoryRegister(
        self,
        request: _messages.CudaSharedMemoryRegisterRequest,
        context: grpc.aio.ServicerContext[_messages.CudaSharedMemoryRegisterRequest, _messages.CudaSharedMemoryRegisterResponse],
    ) -> _messages.CudaSharedMemoryRegisterResponse: ...
    async def CudaSharedMemoryUnregister(
        self,
        request: _messages.CudaSharedMemoryUnregisterRequest,
        context: grpc.aio.ServicerContext[_messages.CudaSharedMemoryUnregisterRequest, _messages.CudaSharedMemoryUnregisterResponse],
    ) -> _messages.CudaSharedMemoryUnregisterResponse: ...
    async def TraceSetting(
        self,
        request: _messages.TraceSettingRequest,
        context: grpc.aio.ServicerContext[_messages.TraceSettingRequest, _messages.TraceSettingResponse],
    ) -> _messages.TraceSettingResponse: ...
    async def LogSettings(
        self,
        request: _messages.LogSettingsRequest,
        context: grpc.aio.ServicerContext[_messages.LogSettingsRequest, _messages.LogSettingsResponse],
    ) -> _messages.LogSettingsResponse: ...

def add_GRPCInferenceServiceServicer_to_server(
    servicer: GRPCInferenceServiceServicer, server: grpc.aio.Server | grpc.Server
) -> None: ...
