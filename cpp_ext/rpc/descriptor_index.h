// Finds the .proto files of names: what reflection answers from. Immutable after construction, thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"

namespace mesh::rpc {

class DescriptorIndex {
 public:
  // Adds all files of a serialized google.protobuf.FileDescriptorSet, whose memory must outlive the index. A file that
  // is known already is left out. INVALID_ARGUMENT for bytes that are no such set.
  Status Add(std::string_view descriptor_set);

  // A serialized FileDescriptorProto and those of all files that it imports, itself first. Empty: not known.
  [[nodiscard]] std::vector<std::string_view> FileByName(std::string_view name) const;
  // `symbol` is a full name: a message, field, enum, enum value, service, method, oneof or extension.
  [[nodiscard]] std::vector<std::string_view> FileOfSymbol(std::string_view symbol) const;
  [[nodiscard]] std::vector<std::string_view> FileOfExtension(std::string_view type, std::int32_t number) const;
  [[nodiscard]] std::vector<std::int32_t> ExtensionsOf(std::string_view type) const;
  // Whether `type` is a known message.
  [[nodiscard]] bool KnowsSymbol(std::string_view symbol) const { return symbols_.find(symbol) != symbols_.end(); }

 private:
  struct File {
    std::string_view bytes;
    std::vector<std::string> imports;
  };

  void AddFile(std::string_view bytes);
  void AddSymbol(const std::string& scope, std::string_view name, const std::string& file);
  void AddMessage(const std::string& scope, std::string_view bytes, const std::string& file);
  void AddNamed(const std::string& scope, std::string_view bytes, const std::string& file);
  void AddEnum(const std::string& scope, std::string_view bytes, const std::string& file);
  void AddService(const std::string& scope, std::string_view bytes, const std::string& file);
  void AddExtension(const std::string& scope, std::string_view bytes, const std::string& file);

  std::map<std::string, File, std::less<>> files_;
  std::map<std::string, std::string, std::less<>> symbols_;                             // full name -> file
  std::map<std::string, std::map<std::int32_t, std::string>, std::less<>> extensions_;  // type -> number -> file
};

}  // namespace mesh::rpc
