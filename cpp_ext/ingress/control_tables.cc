#include "ingress/control_tables.h"

namespace mesh::ingress {
namespace {

constexpr FieldTable Scalar(std::string_view name, std::uint32_t number, Kind kind) {
  return {name, number, kind, false, false, nullptr, nullptr};
}

constexpr FieldTable Repeated(std::string_view name, std::uint32_t number, Kind kind) {
  return {name, number, kind, true, false, nullptr, nullptr};
}

constexpr FieldTable Nested(std::string_view name, std::uint32_t number, const MessageTable* table) {
  return {name, number, Kind::kMessage, false, false, table, nullptr};
}

constexpr FieldTable NestedList(std::string_view name, std::uint32_t number, const MessageTable* table) {
  return {name, number, Kind::kMessage, true, false, table, nullptr};
}

template <std::size_t Size>
constexpr MessageTable Table(std::string_view name, const FieldTable (&fields)[Size]) {
  return {name, fields, Size};
}

constexpr FieldTable kServerMetadataFields[] = {Scalar("name", 1, Kind::kString), Scalar("version", 2, Kind::kString),
                                                Repeated("extensions", 3, Kind::kString)};

constexpr FieldTable kTensorFields[] = {Scalar("name", 1, Kind::kString), Scalar("datatype", 2, Kind::kString),
                                        Repeated("shape", 3, Kind::kInt64)};
constexpr MessageTable kTensorTable = Table("TensorMetadata", kTensorFields);
constexpr FieldTable kModelMetadataFields[] = {
    Scalar("name", 1, Kind::kString), Repeated("versions", 2, Kind::kString), Scalar("platform", 3, Kind::kString),
    NestedList("inputs", 4, &kTensorTable), NestedList("outputs", 5, &kTensorTable)};

constexpr FieldTable kDurationFields[] = {Scalar("count", 1, Kind::kUint64), Scalar("ns", 2, Kind::kUint64)};
constexpr MessageTable kDuration = Table("StatisticDuration", kDurationFields);
constexpr FieldTable kInferFields[] = {Nested("success", 1, &kDuration),       Nested("fail", 2, &kDuration),
                                       Nested("queue", 3, &kDuration),         Nested("compute_input", 4, &kDuration),
                                       Nested("compute_infer", 5, &kDuration), Nested("compute_output", 6, &kDuration),
                                       Nested("cache_hit", 7, &kDuration),     Nested("cache_miss", 8, &kDuration)};
constexpr MessageTable kInferTable = Table("InferStatistics", kInferFields);
constexpr FieldTable kResponseFields[] = {
    Nested("compute_infer", 1, &kDuration), Nested("compute_output", 2, &kDuration), Nested("success", 3, &kDuration),
    Nested("fail", 4, &kDuration),          Nested("empty_response", 5, &kDuration), Nested("cancel", 6, &kDuration)};
constexpr MessageTable kResponseTable = Table("InferResponseStatistics", kResponseFields);
constexpr FieldTable kResponseEntryFields[] = {Scalar("key", 1, Kind::kString), Nested("value", 2, &kResponseTable)};
constexpr MessageTable kResponseEntryTable = Table("ResponseStatsEntry", kResponseEntryFields);
constexpr FieldTable kBatchFields[] = {Scalar("batch_size", 1, Kind::kUint64), Nested("compute_input", 2, &kDuration),
                                       Nested("compute_infer", 3, &kDuration), Nested("compute_output", 4, &kDuration)};
constexpr MessageTable kBatchTable = Table("InferBatchStatistics", kBatchFields);
constexpr FieldTable kMemoryFields[] = {Scalar("type", 1, Kind::kString), Scalar("id", 2, Kind::kInt64),
                                        Scalar("byte_size", 3, Kind::kUint64)};
constexpr MessageTable kMemoryTable = Table("MemoryUsage", kMemoryFields);
constexpr FieldTable kModelFields[] = {Scalar("name", 1, Kind::kString),
                                       Scalar("version", 2, Kind::kString),
                                       Scalar("last_inference", 3, Kind::kUint64),
                                       Scalar("inference_count", 4, Kind::kUint64),
                                       Scalar("execution_count", 5, Kind::kUint64),
                                       Nested("inference_stats", 6, &kInferTable),
                                       NestedList("batch_stats", 7, &kBatchTable),
                                       NestedList("memory_usage", 8, &kMemoryTable),
                                       {"response_stats", 9, Kind::kMap, true, false, &kResponseEntryTable, nullptr}};
constexpr MessageTable kModelTable = Table("ModelStatistics", kModelFields);
constexpr FieldTable kModelStatisticsFields[] = {NestedList("model_stats", 1, &kModelTable)};

constexpr FieldTable kModelIndexFields[] = {Scalar("name", 1, Kind::kString), Scalar("version", 2, Kind::kString),
                                            Scalar("state", 3, Kind::kString), Scalar("reason", 4, Kind::kString)};

}  // namespace

extern const MessageTable kServerMetadataTable = Table("ServerMetadataResponse", kServerMetadataFields);
extern const MessageTable kModelMetadataTable = Table("ModelMetadataResponse", kModelMetadataFields);
extern const MessageTable kModelStatisticsTable = Table("ModelStatisticsResponse", kModelStatisticsFields);
extern const MessageTable kModelIndexTable = Table("ModelIndex", kModelIndexFields);

}  // namespace mesh::ingress
