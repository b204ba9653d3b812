#include "rpc/descriptor_index.h"

#include <protozero/pbf_reader.hpp>
#include <set>

namespace mesh::rpc {
namespace {

using Reader = protozero::pbf_reader;
using Tag = protozero::pbf_tag_type;

// Field numbers of google/protobuf/descriptor.proto.
constexpr Tag kSetFile = 1;
constexpr Tag kFileName = 1, kFilePackage = 2, kFileDependency = 3, kFileMessage = 4, kFileEnum = 5, kFileService = 6,
              kFileExtension = 7;
constexpr Tag kMessageName = 1, kMessageField = 2, kMessageNested = 3, kMessageEnum = 4, kMessageExtension = 6,
              kMessageOneof = 8;
constexpr Tag kName = 1;  // of fields, oneofs, enums, enum values, services and methods
constexpr Tag kEnumValue = 2, kServiceMethod = 2;
constexpr Tag kFieldExtendee = 2, kFieldNumber = 3;

std::string_view View(Reader& reader) {
  const protozero::data_view view = reader.get_view();
  return {view.data(), view.size()};
}

// The value of the first field `tag`, which is text or a message.
std::string_view Text(std::string_view bytes, Tag tag) {
  Reader reader(bytes.data(), bytes.size());
  return reader.next(tag) ? View(reader) : std::string_view();
}

std::string Join(const std::string& scope, std::string_view name) {
  return scope.empty() ? std::string(name) : scope + "." + std::string(name);
}

}  // namespace

Status DescriptorIndex::Add(std::string_view descriptor_set) {
  try {
    Reader reader(descriptor_set.data(), descriptor_set.size());
    while (reader.next(kSetFile)) AddFile(View(reader));
  } catch (const protozero::exception& error) {
    return {Code::kInvalidArgument, std::string("the bytes are no FileDescriptorSet: ") + error.what()};
  }
  return {};
}

void DescriptorIndex::AddFile(std::string_view bytes) {
  const std::string name(Text(bytes, kFileName));
  if (files_.count(name) != 0) return;
  File& file = files_[name];
  file.bytes = bytes;
  const std::string package(Text(bytes, kFilePackage));
  Reader reader(bytes.data(), bytes.size());
  while (reader.next()) {
    switch (reader.tag()) {
      case kFileDependency: file.imports.emplace_back(View(reader)); break;
      case kFileMessage: AddMessage(package, View(reader), name); break;
      case kFileEnum: AddEnum(package, View(reader), name); break;
      case kFileService: AddService(package, View(reader), name); break;
      case kFileExtension: AddExtension(package, View(reader), name); break;
      default: reader.skip();
    }
  }
}

void DescriptorIndex::AddSymbol(const std::string& scope, std::string_view name, const std::string& file) {
  symbols_.emplace(Join(scope, name), file);
}

void DescriptorIndex::AddNamed(const std::string& scope, std::string_view bytes, const std::string& file) {
  AddSymbol(scope, Text(bytes, kName), file);
}

void DescriptorIndex::AddMessage(const std::string& scope, std::string_view bytes, const std::string& file) {
  const std::string name = Join(scope, Text(bytes, kMessageName));
  symbols_.emplace(name, file);
  Reader reader(bytes.data(), bytes.size());
  while (reader.next()) {
    switch (reader.tag()) {
      case kMessageField:
      case kMessageOneof: AddNamed(name, View(reader), file); break;
      case kMessageNested: AddMessage(name, View(reader), file); break;
      case kMessageEnum: AddEnum(name, View(reader), file); break;
      case kMessageExtension: AddExtension(name, View(reader), file); break;
      default: reader.skip();
    }
  }
}

void DescriptorIndex::AddEnum(const std::string& scope, std::string_view bytes, const std::string& file) {
  AddNamed(scope, bytes, file);
  Reader reader(bytes.data(), bytes.size());
  while (reader.next(kEnumValue)) AddNamed(scope, View(reader), file);  // values live in the scope of their enum
}

void DescriptorIndex::AddService(const std::string& scope, std::string_view bytes, const std::string& file) {
  const std::string name = Join(scope, Text(bytes, kName));
  symbols_.emplace(name, file);
  Reader reader(bytes.data(), bytes.size());
  while (reader.next(kServiceMethod)) AddNamed(name, View(reader), file);
}

void DescriptorIndex::AddExtension(const std::string& scope, std::string_view bytes, const std::string& file) {
  AddNamed(scope, bytes, file);
  std::string_view type = Text(bytes, kFieldExtendee);
  if (!type.empty() && type.front() == '.') type.remove_prefix(1);
  Reader reader(bytes.data(), bytes.size());
  if (reader.next(kFieldNumber)) extensions_[std::string(type)][reader.get_int32()] = file;
}

std::vector<std::string_view> DescriptorIndex::FileByName(std::string_view name) const {
  std::vector<std::string_view> found;
  std::vector<std::string_view> wanted = {name};
  std::set<std::string_view> seen = {name};
  while (!wanted.empty()) {
    const auto file = files_.find(wanted.back());
    wanted.pop_back();
    if (file == files_.end()) continue;
    found.push_back(file->second.bytes);
    for (const std::string& import : file->second.imports) {
      if (seen.insert(import).second) wanted.push_back(import);
    }
  }
  return found;
}

std::vector<std::string_view> DescriptorIndex::FileOfSymbol(std::string_view symbol) const {
  const auto found = symbols_.find(symbol);
  return found == symbols_.end() ? std::vector<std::string_view>() : FileByName(found->second);
}

std::vector<std::string_view> DescriptorIndex::FileOfExtension(std::string_view type, std::int32_t number) const {
  const auto extensions = extensions_.find(type);
  if (extensions == extensions_.end()) return {};
  const auto found = extensions->second.find(number);
  return found == extensions->second.end() ? std::vector<std::string_view>() : FileByName(found->second);
}

std::vector<std::int32_t> DescriptorIndex::ExtensionsOf(std::string_view type) const {
  std::vector<std::int32_t> numbers;
  const auto extensions = extensions_.find(type);
  if (extensions == extensions_.end()) return numbers;
  for (const auto& [number, file] : extensions->second) numbers.push_back(number);
  return numbers;
}

}  // namespace mesh::rpc
