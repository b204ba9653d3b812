#include "backends/openvino/settings.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

namespace mesh::backend {
namespace {

constexpr const char* kDevice = "TARGET_DEVICE";
constexpr std::int64_t kTritonsDefaultMaxBatchSize = 4;

bool IsProperty(const std::string& key) {
  return !key.empty() && key.front() >= 'A' && key.front() <= 'Z' && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::string FolderContent(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text.empty() ? "nothing" : text;
}

std::string Trimmed(const std::string& line) {
  const auto first = line.find_first_not_of(" \t\r");
  return first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

Result<Properties> ParseBackendSettings(const std::string& json) {
  try {
    Properties settings;
    const auto document = nlohmann::json::parse(json);
    const auto cmdline = document.value("cmdline", nlohmann::json::object());
    for (const auto& [key, value] : cmdline.items()) {
      settings[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    return settings;
  } catch (const std::exception& error) {
    return Status(Code::kInvalidArgument, std::string("the backend's settings cannot be read: ") + error.what());
  }
}

Result<Properties> CompileProperties(const ModelConfig& config, const Properties& settings) {
  const std::string instances = std::to_string(config.instances);
  Properties properties = {{"INFERENCE_NUM_THREADS", instances},
                           {"NUM_STREAMS", instances},
                           {"ENABLE_CPU_PINNING", "NO"},
                           {"INFERENCE_PRECISION_HINT", "f32"}};
  for (const Properties* source : {&settings, &config.parameters}) {
    for (const auto& [key, value] : *source) {
      if (IsProperty(key)) {
        properties[key] = value;
      }
    }
  }
  if (const auto device = properties.find(kDevice); device != properties.end()) {
    if (device->second != "CPU") {
      return Status(Code::kUnimplemented, "model '" + config.name + "': TARGET_DEVICE is '" + device->second +
                                              "', this backend computes on CPU only");
    }
    properties.erase(device);
  }
  return properties;
}

std::int64_t DefaultMaxBatchSize(const Properties& settings) {
  const auto found = settings.find("default-max-batch-size");
  std::int64_t size = kTritonsDefaultMaxBatchSize;
  if (found != settings.end()) {
    std::from_chars(found->second.data(), found->second.data() + found->second.size(), size);
  }
  return std::max<std::int64_t>(0, size);
}

Result<std::string> FindModelFile(const ModelConfig& config, const std::string& version_folder) {
  // Triton itself fills in "model.xml" or "model.onnx" by the backend's name, so a name that is not there proves
  // nothing unless it is another one.
  std::vector<std::string> names = {"model.onnx", "model.xml"};
  const std::string& wanted = config.default_model_filename;
  const bool tritons_guess = wanted.empty() || std::find(names.begin(), names.end(), wanted) != names.end();
  if (!tritons_guess) {
    names = {wanted};
  } else if (!wanted.empty()) {
    names.insert(names.begin(), wanted);
  }
  const std::filesystem::path folder(version_folder);
  for (const std::string& name : names) {
    std::error_code error;
    if (std::filesystem::is_regular_file(folder / name, error)) {
      return (folder / name).string();
    }
  }
  const std::string looked_for = tritons_guess ? "model.onnx or model.xml" : "'" + wanted + "'";
  return Status(Code::kNotFound, "model '" + config.name + "': there is no " + looked_for + " in " + version_folder +
                                     " (which holds " + FolderContent(folder) + ")");
}

std::string WithoutTrace(const std::string& message) {
  std::istringstream lines(message);
  std::string line;
  std::string text;
  while (std::getline(lines, line)) {
    line = Trimmed(line);
    const bool trace = line.rfind("Exception from ", 0) == 0 || line.rfind("Check '", 0) == 0;
    if (!line.empty() && !trace) {
      text += (text.empty() ? "" : " ") + line;
    }
  }
  return text.empty() ? Trimmed(message) : text;
}

}  // namespace mesh::backend
