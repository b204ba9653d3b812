// The part of Triton's in-process C API that the mesh calls. Its ABI is public and stable within major version 1; no
// package ships a header for it, so the declarations are written here, by its documentation. Nothing here is linked:
// Library (library.h) finds the functions in libtritonserver.so when it is loaded.
//
// Ownership, by the API's rules: every function that returns TRITONSERVER_Error* returns null for success and otherwise
// an error that the caller must delete, except InferenceResponseError, whose error belongs to the response. Strings and
// shapes that are handed out belong to the object they came from.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// The version these declarations were written for. A library with the same major and at least this minor fits.
#define TRITONSERVER_API_VERSION_MAJOR 1
#define TRITONSERVER_API_VERSION_MINOR 28

struct TRITONSERVER_Error;
struct TRITONSERVER_InferenceRequest;
struct TRITONSERVER_InferenceResponse;
struct TRITONSERVER_InferenceTrace;
struct TRITONSERVER_Message;
struct TRITONSERVER_Metrics;
struct TRITONSERVER_Parameter;
struct TRITONSERVER_ResponseAllocator;
struct TRITONSERVER_Server;
struct TRITONSERVER_ServerOptions;

enum TRITONSERVER_DataType {
  TRITONSERVER_TYPE_INVALID,
  TRITONSERVER_TYPE_BOOL,
  TRITONSERVER_TYPE_UINT8,
  TRITONSERVER_TYPE_UINT16,
  TRITONSERVER_TYPE_UINT32,
  TRITONSERVER_TYPE_UINT64,
  TRITONSERVER_TYPE_INT8,
  TRITONSERVER_TYPE_INT16,
  TRITONSERVER_TYPE_INT32,
  TRITONSERVER_TYPE_INT64,
  TRITONSERVER_TYPE_FP16,
  TRITONSERVER_TYPE_FP32,
  TRITONSERVER_TYPE_FP64,
  TRITONSERVER_TYPE_BYTES,
  TRITONSERVER_TYPE_BF16
};

enum TRITONSERVER_MemoryType { TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_CPU_PINNED, TRITONSERVER_MEMORY_GPU };

enum TRITONSERVER_ParameterType {
  TRITONSERVER_PARAMETER_STRING,
  TRITONSERVER_PARAMETER_INT,
  TRITONSERVER_PARAMETER_BOOL,
  TRITONSERVER_PARAMETER_DOUBLE,
  TRITONSERVER_PARAMETER_BYTES
};

enum TRITONSERVER_Error_Code {
  TRITONSERVER_ERROR_UNKNOWN,
  TRITONSERVER_ERROR_INTERNAL,
  TRITONSERVER_ERROR_NOT_FOUND,
  TRITONSERVER_ERROR_INVALID_ARG,
  TRITONSERVER_ERROR_UNAVAILABLE,
  TRITONSERVER_ERROR_UNSUPPORTED,
  TRITONSERVER_ERROR_ALREADY_EXISTS,
  TRITONSERVER_ERROR_CANCELLED
};

enum TRITONSERVER_LogFormat { TRITONSERVER_LOG_DEFAULT, TRITONSERVER_LOG_ISO8601 };
enum TRITONSERVER_MetricFormat { TRITONSERVER_METRIC_PROMETHEUS };

enum TRITONSERVER_ModelControlMode {
  TRITONSERVER_MODEL_CONTROL_NONE,
  TRITONSERVER_MODEL_CONTROL_POLL,
  TRITONSERVER_MODEL_CONTROL_EXPLICIT
};

// Bits of the level of a trace; the two numbers between are levels of old that no longer mean anything.
enum TRITONSERVER_InferenceTraceLevel {
  TRITONSERVER_TRACE_LEVEL_DISABLED = 0,
  TRITONSERVER_TRACE_LEVEL_TIMESTAMPS = 4,
  TRITONSERVER_TRACE_LEVEL_TENSORS = 8
};
enum TRITONSERVER_InferenceTraceActivity {
  TRITONSERVER_TRACE_REQUEST_START,
  TRITONSERVER_TRACE_QUEUE_START,
  TRITONSERVER_TRACE_COMPUTE_START,
  TRITONSERVER_TRACE_COMPUTE_INPUT_END,
  TRITONSERVER_TRACE_COMPUTE_OUTPUT_START,
  TRITONSERVER_TRACE_COMPUTE_END,
  TRITONSERVER_TRACE_REQUEST_END,
  TRITONSERVER_TRACE_TENSOR_QUEUE_INPUT,
  TRITONSERVER_TRACE_TENSOR_BACKEND_INPUT,
  TRITONSERVER_TRACE_TENSOR_BACKEND_OUTPUT
};

enum TRITONSERVER_RateLimitMode { TRITONSERVER_RATE_LIMIT_OFF, TRITONSERVER_RATE_LIMIT_EXEC_COUNT };

// Bits of the flags words below.
enum TRITONSERVER_RequestFlag {
  TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1,
  TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
};
enum TRITONSERVER_RequestReleaseFlag { TRITONSERVER_REQUEST_RELEASE_ALL = 1 };
enum TRITONSERVER_ResponseCompleteFlag { TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1 };
enum TRITONSERVER_ModelBatchFlag { TRITONSERVER_BATCH_UNKNOWN = 1, TRITONSERVER_BATCH_FIRST_DIM = 2 };
enum TRITONSERVER_ModelIndexFlag { TRITONSERVER_INDEX_FLAG_READY = 1 };
enum TRITONSERVER_ModelTxnPropertyFlag { TRITONSERVER_TXN_ONE_TO_ONE = 1, TRITONSERVER_TXN_DECOUPLED = 2 };

// Asks for the memory of one output. `userp` is the allocator pointer of the request; `buffer_userp` comes back in the
// release function and in InferenceResponseOutput.
using TRITONSERVER_ResponseAllocatorAllocFn_t = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator* allocator,
                                                                        const char* tensor_name, size_t byte_size,
                                                                        TRITONSERVER_MemoryType memory_type,
                                                                        int64_t memory_type_id, void* userp,
                                                                        void** buffer, void** buffer_userp,
                                                                        TRITONSERVER_MemoryType* actual_memory_type,
                                                                        int64_t* actual_memory_type_id);
// Triton no longer refers to the buffer: called when its response is deleted.
using TRITONSERVER_ResponseAllocatorReleaseFn_t = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator* allocator,
                                                                          void* buffer, void* buffer_userp,
                                                                          size_t byte_size,
                                                                          TRITONSERVER_MemoryType memory_type,
                                                                          int64_t memory_type_id);
// The following allocations belong to a new response. Optional.
using TRITONSERVER_ResponseAllocatorStartFn_t = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator* allocator,
                                                                        void* userp);
// Which memory the allocator would give; `tensor_name` and `byte_size` may be null.
using TRITONSERVER_ResponseAllocatorQueryFn_t = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator* allocator,
                                                                        void* userp, const char* tensor_name,
                                                                        size_t* byte_size,
                                                                        TRITONSERVER_MemoryType* memory_type,
                                                                        int64_t* memory_type_id);
// Gives the request object back, with RELEASE_ALL among the flags: its inputs are not read any more.
using TRITONSERVER_InferenceRequestReleaseFn_t = void (*)(TRITONSERVER_InferenceRequest* request, uint32_t flags,
                                                          void* userp);
// Hands over a response (null when a final flag comes alone). The receiver deletes it.
using TRITONSERVER_InferenceResponseCompleteFn_t = void (*)(TRITONSERVER_InferenceResponse* response, uint32_t flags,
                                                            void* userp);

// What happened to the request of a trace, at `timestamp_ns` of the steady clock.
using TRITONSERVER_InferenceTraceActivityFn_t = void (*)(TRITONSERVER_InferenceTrace* trace,
                                                         TRITONSERVER_InferenceTraceActivity activity,
                                                         uint64_t timestamp_ns, void* userp);
// The same with a tensor, whose bytes end with the call.
using TRITONSERVER_InferenceTraceTensorActivityFn_t = void (*)(TRITONSERVER_InferenceTrace* trace,
                                                               TRITONSERVER_InferenceTraceActivity activity,
                                                               const char* name, TRITONSERVER_DataType datatype,
                                                               const void* base, size_t byte_size, const int64_t* shape,
                                                               uint64_t dim_count, TRITONSERVER_MemoryType memory_type,
                                                               int64_t memory_type_id, void* userp);
// Gives a trace back; the receiver deletes it.
using TRITONSERVER_InferenceTraceReleaseFn_t = void (*)(TRITONSERVER_InferenceTrace* trace, void* userp);

TRITONSERVER_Error* TRITONSERVER_ApiVersion(uint32_t* major, uint32_t* minor);

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error);
TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error* error);
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error);

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(TRITONSERVER_ResponseAllocator** allocator,
                                                      TRITONSERVER_ResponseAllocatorAllocFn_t alloc_fn,
                                                      TRITONSERVER_ResponseAllocatorReleaseFn_t release_fn,
                                                      TRITONSERVER_ResponseAllocatorStartFn_t start_fn);
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorSetQueryFunction(TRITONSERVER_ResponseAllocator* allocator,
                                                                   TRITONSERVER_ResponseAllocatorQueryFn_t query_fn);
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator* allocator);

TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message, const char** base,
                                                        size_t* byte_size);
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message);

TRITONSERVER_Error* TRITONSERVER_MetricsFormatted(TRITONSERVER_Metrics* metrics, TRITONSERVER_MetricFormat format,
                                                  const char** base, size_t* byte_size);
TRITONSERVER_Error* TRITONSERVER_MetricsDelete(TRITONSERVER_Metrics* metrics);

// Version -1: the one that the model's version policy chooses.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(TRITONSERVER_InferenceRequest** request,
                                                     TRITONSERVER_Server* server, const char* model_name,
                                                     int64_t model_version);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest* request);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(TRITONSERVER_InferenceRequest* request, const char* id);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetFlags(TRITONSERVER_InferenceRequest* request, uint32_t flags);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationId(TRITONSERVER_InferenceRequest* request,
                                                                  uint64_t correlation_id);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationIdString(TRITONSERVER_InferenceRequest* request,
                                                                        const char* correlation_id);
// 0: the model's default priority. 1 is the highest.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriorityUInt64(TRITONSERVER_InferenceRequest* request,
                                                                   uint64_t priority);
// 0: none. Heeded by queue policies that allow it.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(TRITONSERVER_InferenceRequest* request,
                                                                        uint64_t timeout_us);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(TRITONSERVER_InferenceRequest* request, const char* name,
                                                          TRITONSERVER_DataType datatype, const int64_t* shape,
                                                          uint64_t dim_count);
// For a model with one input, whose type and shape follow from the model and the number of bytes.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRawInput(TRITONSERVER_InferenceRequest* request, const char* name);
// The bytes are not copied: they must stay until the request is released.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(TRITONSERVER_InferenceRequest* request,
                                                                 const char* name, const void* base, size_t byte_size,
                                                                 TRITONSERVER_MemoryType memory_type,
                                                                 int64_t memory_type_id);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(TRITONSERVER_InferenceRequest* request,
                                                                    const char* name);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetStringParameter(TRITONSERVER_InferenceRequest* request,
                                                                    const char* key, const char* value);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetIntParameter(TRITONSERVER_InferenceRequest* request,
                                                                 const char* key, int64_t value);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetBoolParameter(TRITONSERVER_InferenceRequest* request,
                                                                  const char* key, bool value);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetDoubleParameter(TRITONSERVER_InferenceRequest* request,
                                                                    const char* key, double value);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(TRITONSERVER_InferenceRequest* request,
                                                                    TRITONSERVER_InferenceRequestReleaseFn_t release_fn,
                                                                    void* release_userp);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* request, TRITONSERVER_ResponseAllocator* allocator, void* allocator_userp,
    TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void* response_userp);
// Asks for the end of a request that runs; only between ServerInferAsync and its release.
TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest* request);

// The error stays the response's own.
TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse* response);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse* response);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(TRITONSERVER_InferenceResponse* response,
                                                        const char** model_name, int64_t* model_version);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseId(TRITONSERVER_InferenceResponse* response, const char** request_id);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameterCount(TRITONSERVER_InferenceResponse* response,
                                                                 uint32_t* count);
// `value` points to bool, int64_t or double, or is the C string itself, by `type`.
TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameter(TRITONSERVER_InferenceResponse* response, uint32_t index,
                                                            const char** name, TRITONSERVER_ParameterType* type,
                                                            const void** value);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(TRITONSERVER_InferenceResponse* response,
                                                              uint32_t* count);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(TRITONSERVER_InferenceResponse* response, uint32_t index,
                                                         const char** name, TRITONSERVER_DataType* datatype,
                                                         const int64_t** shape, uint64_t* dim_count, const void** base,
                                                         size_t* byte_size, TRITONSERVER_MemoryType* memory_type,
                                                         int64_t* memory_type_id, void** userp);
// Null where the model has no label file or no label for the class.
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputClassificationLabel(TRITONSERVER_InferenceResponse* response,
                                                                            uint32_t index, size_t class_index,
                                                                            const char** label);

// Traces of what a request leads to have the same functions and pointer, and the id of its trace as their parent.
TRITONSERVER_Error* TRITONSERVER_InferenceTraceTensorNew(TRITONSERVER_InferenceTrace** trace,
                                                         TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
                                                         TRITONSERVER_InferenceTraceActivityFn_t activity_fn,
                                                         TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_fn,
                                                         TRITONSERVER_InferenceTraceReleaseFn_t release_fn,
                                                         void* trace_userp);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceDelete(TRITONSERVER_InferenceTrace* trace);
const char* TRITONSERVER_InferenceTraceActivityString(TRITONSERVER_InferenceTraceActivity activity);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceId(TRITONSERVER_InferenceTrace* trace, uint64_t* id);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceParentId(TRITONSERVER_InferenceTrace* trace, uint64_t* parent_id);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelName(TRITONSERVER_InferenceTrace* trace, const char** model_name);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelVersion(TRITONSERVER_InferenceTrace* trace, int64_t* model_version);
TRITONSERVER_Error* TRITONSERVER_InferenceTraceRequestId(TRITONSERVER_InferenceTrace* trace, const char** request_id);

// `value` is a C string for a parameter of type STRING. Null when there is no such type.
TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(const char* name, TRITONSERVER_ParameterType type, const void* value);
// The bytes are not copied: they must stay as long as the parameter.
TRITONSERVER_Parameter* TRITONSERVER_ParameterBytesNew(const char* name, const void* bytes, uint64_t size);
void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter* parameter);

TRITONSERVER_Error* TRITONSERVER_ServerOptionsNew(TRITONSERVER_ServerOptions** options);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsDelete(TRITONSERVER_ServerOptions* options);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetServerId(TRITONSERVER_ServerOptions* options, const char* id);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelRepositoryPath(TRITONSERVER_ServerOptions* options,
                                                                     const char* path);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelControlMode(TRITONSERVER_ServerOptions* options,
                                                                  TRITONSERVER_ModelControlMode mode);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictModelConfig(TRITONSERVER_ServerOptions* options, bool strict);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetRateLimiterMode(TRITONSERVER_ServerOptions* options,
                                                                 TRITONSERVER_RateLimitMode mode);
// A device of -1: so many on each device.
TRITONSERVER_Error* TRITONSERVER_ServerOptionsAddRateLimiterResource(TRITONSERVER_ServerOptions* options,
                                                                     const char* resource_name, size_t resource_count,
                                                                     int device);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetPinnedMemoryPoolByteSize(TRITONSERVER_ServerOptions* options,
                                                                          uint64_t size);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitOnError(TRITONSERVER_ServerOptions* options, bool exit);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetStrictReadiness(TRITONSERVER_ServerOptions* options, bool strict);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetExitTimeout(TRITONSERVER_ServerOptions* options,
                                                             unsigned int timeout_s);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBufferManagerThreadCount(TRITONSERVER_ServerOptions* options,
                                                                          unsigned int thread_count);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadThreadCount(TRITONSERVER_ServerOptions* options,
                                                                      unsigned int thread_count);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetModelLoadRetryCount(TRITONSERVER_ServerOptions* options,
                                                                     unsigned int retry_count);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogFile(TRITONSERVER_ServerOptions* options, const char* file);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogInfo(TRITONSERVER_ServerOptions* options, bool log);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogWarn(TRITONSERVER_ServerOptions* options, bool log);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogError(TRITONSERVER_ServerOptions* options, bool log);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogFormat(TRITONSERVER_ServerOptions* options,
                                                           TRITONSERVER_LogFormat format);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetLogVerbose(TRITONSERVER_ServerOptions* options, int level);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetMetrics(TRITONSERVER_ServerOptions* options, bool metrics);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetGpuMetrics(TRITONSERVER_ServerOptions* options, bool metrics);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCpuMetrics(TRITONSERVER_ServerOptions* options, bool metrics);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendDirectory(TRITONSERVER_ServerOptions* options,
                                                                  const char* path);
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetBackendConfig(TRITONSERVER_ServerOptions* options, const char* backend,
                                                               const char* setting, const char* value);
// The folder of `<cache>/libtritoncache_<cache>.so`.
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheDirectory(TRITONSERVER_ServerOptions* options, const char* path);
// `config_json`: the cache's settings as one flat object. One cache for each server.
TRITONSERVER_Error* TRITONSERVER_ServerOptionsSetCacheConfig(TRITONSERVER_ServerOptions* options,
                                                             const char* cache_name, const char* config_json);

TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server** server, TRITONSERVER_ServerOptions* options);
TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server* server);
TRITONSERVER_Error* TRITONSERVER_ServerStop(TRITONSERVER_Server* server);
TRITONSERVER_Error* TRITONSERVER_ServerIsLive(TRITONSERVER_Server* server, bool* live);
TRITONSERVER_Error* TRITONSERVER_ServerIsReady(TRITONSERVER_Server* server, bool* ready);
TRITONSERVER_Error* TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server* server, const char* model_name,
                                                    int64_t model_version, bool* ready);
TRITONSERVER_Error* TRITONSERVER_ServerModelBatchProperties(TRITONSERVER_Server* server, const char* model_name,
                                                            int64_t model_version, uint32_t* flags, void** voidp);
TRITONSERVER_Error* TRITONSERVER_ServerModelTransactionProperties(TRITONSERVER_Server* server, const char* model_name,
                                                                  int64_t model_version, uint32_t* txn_flags,
                                                                  void** voidp);
TRITONSERVER_Error* TRITONSERVER_ServerMetadata(TRITONSERVER_Server* server, TRITONSERVER_Message** metadata);
TRITONSERVER_Error* TRITONSERVER_ServerModelMetadata(TRITONSERVER_Server* server, const char* model_name,
                                                     int64_t model_version, TRITONSERVER_Message** metadata);
// An empty name: all models.
TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(TRITONSERVER_Server* server, const char* model_name,
                                                       int64_t model_version, TRITONSERVER_Message** statistics);
// `config_version` is 1.
TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(TRITONSERVER_Server* server, const char* model_name,
                                                   int64_t model_version, uint32_t config_version,
                                                   TRITONSERVER_Message** config);
TRITONSERVER_Error* TRITONSERVER_ServerModelIndex(TRITONSERVER_Server* server, uint32_t flags,
                                                  TRITONSERVER_Message** index);
// Returns when the model is loaded or has failed to.
// `name_mapping` (parameters: model folder's name -> model's name) may be null with a count of 0. The path must be
// unlike those that are registered already.
TRITONSERVER_Error* TRITONSERVER_ServerRegisterModelRepository(TRITONSERVER_Server* server, const char* repository_path,
                                                               const TRITONSERVER_Parameter** name_mapping,
                                                               const uint32_t mapping_count);
// Models that were loaded from there stay.
TRITONSERVER_Error* TRITONSERVER_ServerUnregisterModelRepository(TRITONSERVER_Server* server,
                                                                 const char* repository_path);
TRITONSERVER_Error* TRITONSERVER_ServerLoadModel(TRITONSERVER_Server* server, const char* model_name);
// With "config", a configuration as JSON, in place of the one in the model's folder, and "file:<path>", bytes in place
// of the files there.
TRITONSERVER_Error* TRITONSERVER_ServerLoadModelWithParameters(TRITONSERVER_Server* server, const char* model_name,
                                                               const TRITONSERVER_Parameter** parameters,
                                                               uint64_t parameter_count);
// Returns at once; the model ends after its last request.
TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server* server, const char* model_name);
// With the models that an ensemble is made of.
TRITONSERVER_Error* TRITONSERVER_ServerUnloadModelAndDependents(TRITONSERVER_Server* server, const char* model_name);
TRITONSERVER_Error* TRITONSERVER_ServerMetrics(TRITONSERVER_Server* server, TRITONSERVER_Metrics** metrics);
// On success the request and the trace (which may be null) belong to Triton until their release callbacks.
TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(TRITONSERVER_Server* server, TRITONSERVER_InferenceRequest* request,
                                                  TRITONSERVER_InferenceTrace* trace);
}

// Every function above, once: what Library resolves.
// The formatter cannot make up its mind about this list.
// clang-format off
#define MESH_TRITON_FUNCTIONS(X)                                                                                       \
  X(ApiVersion) X(ErrorNew) X(ErrorDelete) X(ErrorCode) X(ErrorMessage) X(ResponseAllocatorNew)                        \
  X(ResponseAllocatorSetQueryFunction) X(ResponseAllocatorDelete) X(MessageSerializeToJson) X(MessageDelete)           \
  X(MetricsFormatted) X(MetricsDelete) X(InferenceRequestNew) X(InferenceRequestDelete) X(InferenceRequestSetId)       \
  X(InferenceRequestSetFlags) X(InferenceRequestSetCorrelationId) X(InferenceRequestSetCorrelationIdString)            \
  X(InferenceRequestSetPriorityUInt64) X(InferenceRequestSetTimeoutMicroseconds) X(InferenceRequestAddInput)           \
  X(InferenceRequestAddRawInput)                                                                                       \
  X(InferenceRequestAppendInputData) X(InferenceRequestAddRequestedOutput) X(InferenceRequestSetStringParameter)       \
  X(InferenceRequestSetIntParameter) X(InferenceRequestSetBoolParameter) X(InferenceRequestSetDoubleParameter)         \
  X(InferenceRequestSetReleaseCallback) X(InferenceRequestSetResponseCallback) X(InferenceRequestCancel)               \
  X(InferenceResponseError) X(InferenceResponseDelete) X(InferenceResponseModel) X(InferenceResponseId)                \
  X(InferenceResponseParameterCount) X(InferenceResponseParameter) X(InferenceResponseOutputCount)                     \
  X(InferenceResponseOutput) X(InferenceResponseOutputClassificationLabel) X(ServerOptionsNew)                         \
  X(ServerOptionsDelete) X(ServerOptionsSetServerId) X(ServerOptionsSetModelRepositoryPath)                            \
  X(ServerOptionsSetModelControlMode) X(ServerOptionsSetStrictModelConfig) X(ServerOptionsSetRateLimiterMode)          \
  X(ServerOptionsSetPinnedMemoryPoolByteSize) X(ServerOptionsSetExitOnError) X(ServerOptionsSetStrictReadiness)        \
  X(ServerOptionsSetExitTimeout) X(ServerOptionsSetBufferManagerThreadCount)                                           \
  X(ServerOptionsSetModelLoadThreadCount) X(ServerOptionsSetModelLoadRetryCount) X(ServerOptionsSetLogFile)            \
  X(ServerOptionsSetLogInfo) X(ServerOptionsSetLogWarn) X(ServerOptionsSetLogError) X(ServerOptionsSetLogFormat)       \
  X(ServerOptionsSetLogVerbose) X(ServerOptionsSetMetrics) X(ServerOptionsSetGpuMetrics)                               \
  X(ServerOptionsSetCpuMetrics) X(ServerOptionsSetBackendDirectory) X(ServerOptionsSetBackendConfig)                   \
  X(ServerOptionsSetCacheDirectory) X(ServerOptionsSetCacheConfig)                                               \
  X(ServerOptionsAddRateLimiterResource) X(ServerNew)                                        \
  X(ServerDelete) X(ServerStop) X(ServerIsLive) X(ServerIsReady) X(ServerModelIsReady)                                 \
  X(ServerModelBatchProperties) X(ServerModelTransactionProperties) X(ServerMetadata) X(ServerModelMetadata)           \
  X(ServerModelStatistics) X(ServerModelConfig) X(ServerModelIndex) X(ServerLoadModel) X(ServerUnloadModel)            \
  X(ServerRegisterModelRepository) X(ServerUnregisterModelRepository)                                                 \
  X(ServerMetrics) X(ServerInferAsync) X(InferenceTraceTensorNew) X(InferenceTraceDelete)                              \
  X(InferenceTraceActivityString) X(InferenceTraceId) X(InferenceTraceParentId) X(InferenceTraceModelName)             \
  X(InferenceTraceModelVersion) X(InferenceTraceRequestId) X(ParameterNew) X(ParameterBytesNew) X(ParameterDelete)     \
  X(ServerLoadModelWithParameters) X(ServerUnloadModelAndDependents)
// clang-format on
