#include "ingress/rest_route.h"

#include <algorithm>
#include <array>
#include <utility>

namespace mesh::ingress {
namespace {

using Kind = Route::Kind;

// The segments of a path, one after the other.
class Segments {
 public:
  // Of "/a/b": "a", "b". Of "/a/": "a", "".
  explicit Segments(std::string_view path) : left_(path) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  [[nodiscard]] std::string_view peek() const {
    if (left_.empty()) return {};
    const std::string_view rest = left_.substr(1);
    return rest.substr(0, rest.find('/'));
  }
  std::string_view Take() {
    const std::string_view taken = peek();
    left_.remove_prefix(std::min(left_.size(), taken.size() + 1));
    return taken;
  }
  bool TakeIf(std::string_view wanted) {
    if (left_.empty() || peek() != wanted) return false;
    Take();
    return true;
  }

 private:
  std::string_view left_;
};

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// What is no encoding stays as it is.
std::string Decoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
    const int low = high >= 0 ? HexDigit(text[i + 2]) : -1;
    if (low < 0) {
      decoded.push_back(text[i]);
      continue;
    }
    decoded.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return decoded;
}

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

template <std::size_t Size>
bool TakeKind(const std::array<std::pair<std::string_view, Kind>, Size>& kinds, Segments* path, Route* route) {
  for (const auto& [name, kind] : kinds) {
    if (!path->TakeIf(name)) continue;
    route->kind = kind;
    return path->empty();
  }
  return false;
}

bool ReadModel(Segments path, Route* route) {
  if (path.peek() == "stats") {
    Segments rest = path;
    rest.Take();
    if (rest.empty()) {
      route->kind = Kind::kModelStatistics;
      return true;
    }
  }
  route->model = Decoded(path.Take());
  if (route->model.empty()) return false;
  if (path.TakeIf("versions")) {
    if (!IsNumber(path.peek())) return false;
    route->version = std::string(path.Take());
  }
  if (path.empty()) {
    route->kind = Kind::kModelMetadata;
    return true;
  }
  if (path.TakeIf("trace")) {
    route->kind = Kind::kTraceSetting;
    return path.TakeIf("setting") && path.empty() && route->version.empty();
  }
  static constexpr std::array<std::pair<std::string_view, Kind>, 6> kKinds{
      {{"infer", Kind::kModelInfer},
       {"ready", Kind::kModelReady},
       {"config", Kind::kModelConfig},
       {"stats", Kind::kModelStatistics},
       {"generate", Kind::kGenerate},
       {"generate_stream", Kind::kGenerateStream}}};
  return TakeKind(kKinds, &path, route);
}

// [<repository>/]index, [<repository>/]models/<model>/load
bool ReadRepository(Segments path, Route* route) {
  if (path.peek() != "index" && path.peek() != "models") route->repository = Decoded(path.Take());
  if (path.TakeIf("index")) {
    route->kind = Kind::kRepositoryIndex;
    return path.empty();
  }
  if (!path.TakeIf("models")) return false;
  route->model = Decoded(path.Take());
  static constexpr std::array<std::pair<std::string_view, Kind>, 2> kKinds{
      {{"load", Kind::kRepositoryModelLoad}, {"unload", Kind::kRepositoryModelUnload}}};
  return !route->model.empty() && TakeKind(kKinds, &path, route);
}

// [region/<region>/]<action>
bool ReadSharedMemory(Segments path, Kind kind, Route* route) {
  route->kind = kind;
  if (path.TakeIf("region")) {
    route->region = Decoded(path.Take());
    if (route->region.empty()) return false;
  }
  const std::string_view action = path.Take();
  if (action == "register") route->action = Route::Action::kRegister;
  if (action == "unregister") route->action = Route::Action::kUnregister;
  return path.empty() && (action == "status" || route->action != Route::Action::kStatus);
}

bool ReadV2(Segments path, Route* route) {
  if (path.empty()) return true;
  static constexpr std::array<std::pair<std::string_view, Kind>, 2> kHealth{
      {{"live", Kind::kServerLive}, {"ready", Kind::kServerReady}}};
  static constexpr std::array<std::pair<std::string_view, Kind>, 1> kTrace{{{"setting", Kind::kTraceSetting}}};
  if (path.TakeIf("health")) return TakeKind(kHealth, &path, route);
  if (path.TakeIf("models")) return ReadModel(path, route);
  if (path.TakeIf("repository")) return ReadRepository(path, route);
  if (path.TakeIf("systemsharedmemory")) return ReadSharedMemory(path, Kind::kSystemSharedMemory, route);
  if (path.TakeIf("cudasharedmemory")) return ReadSharedMemory(path, Kind::kCudaSharedMemory, route);
  if (path.TakeIf("trace")) return TakeKind(kTrace, &path, route);
  route->kind = Kind::kLogSettings;
  return path.TakeIf("logging") && path.empty();
}

}  // namespace

std::optional<Route> FindRoute(std::string_view path) {
  Route route;
  if (path == "/metrics") {
    route.kind = Kind::kMetrics;
    return route;
  }
  if (path.empty() || path.front() != '/') return std::nullopt;
  Segments segments(path);
  if (!segments.TakeIf("v2") || !ReadV2(segments, &route)) return std::nullopt;
  return route;
}

}  // namespace mesh::ingress
