// Movies for a user: features of all that the user has not seen, their stars from the model `ranker` in Triton, the
// best of them but not all alike.
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "features.h"
#include "mesh/deployment.h"
#include "rerank.h"

namespace recommend {

constexpr std::int64_t kUsualCount = 10;
constexpr std::int64_t kMostCount = 100;

class Recommend final : public mesh::Deployment {
 public:
  explicit Recommend(const mesh::Context& context)
      : tables_(context.code_folder()), ranker_(context.Triton(context.args().Text("ranker", "ranker"))) {
    context.Log(mesh::LogLevel::kInfo, std::to_string(tables_.movies().size()) + " movies are known");
  }

  [[nodiscard]] mesh::Signature Describe() const override {
    return mesh::Signature()
        .Input("user", "INT64", {1})
        .Input("count", "INT64", {1}, true)
        .Output("movie", "INT64", {-1})
        .Output("title", "BYTES", {-1})
        .Output("stars", "FP32", {-1});
  }

  void Infer(mesh::Request request, mesh::Answer answer) override {
    const std::int64_t id = request.Input("user").Values<std::int64_t>()[0];
    const User* user = tables_.FindUser(id);
    if (user == nullptr) throw mesh::Error(mesh::Code::kNotFound, "user " + std::to_string(id) + " is not known");
    const std::vector<const Movie*> movies = NotSeenBy(*user);
    const std::vector<float> features = FeaturesOf(*user, movies);
    const auto rows = static_cast<std::int64_t>(movies.size());
    const mesh::Reply reply =
        ranker_.Infer(request, {mesh::Input("features", features, {rows, static_cast<std::int64_t>(kFeatures)})});
    const auto stars = reply.Output("stars").Values<float>();
    Fill(movies, stars.data(), Rerank(movies, stars.data(), CountOf(request), diversity_), &answer);
    answer.Finish();
  }

  void Reconfigure(const mesh::Settings& config) override {
    const double diversity = config.Number("diversity", 0.0);
    if (diversity < 0 || diversity > 5) {
      throw mesh::Error(mesh::Code::kInvalidArgument, "config.diversity must be between 0 and 5");
    }
    diversity_ = static_cast<float>(diversity);
  }

 private:
  static std::size_t CountOf(const mesh::Request& request) {
    const std::int64_t count = request.Has("count") ? request.Input("count").Values<std::int64_t>()[0] : kUsualCount;
    if (count < 1 || count > kMostCount) {
      throw mesh::Error(mesh::Code::kInvalidArgument, "count must be between 1 and " + std::to_string(kMostCount));
    }
    return static_cast<std::size_t>(count);
  }

  [[nodiscard]] std::vector<const Movie*> NotSeenBy(const User& user) const {
    std::vector<const Movie*> movies;
    for (const Movie& movie : tables_.movies()) {
      if (user.seen.count(movie.id) == 0) movies.push_back(&movie);
    }
    return movies;
  }

  static void Fill(const std::vector<const Movie*>& movies, const float* stars, const std::vector<std::size_t>& chosen,
                   mesh::Answer* answer) {
    const mesh::Shape shape{static_cast<std::int64_t>(chosen.size())};
    const mesh::Span<std::int64_t> ids = answer->Output<std::int64_t>("movie", shape);
    const mesh::Span<float> worth = answer->Output<float>("stars", shape);
    std::vector<std::string> titles;
    for (std::size_t place = 0; place < chosen.size(); ++place) {
      ids[place] = movies[chosen[place]]->id;
      worth[place] = stars[chosen[place]];
      titles.push_back(movies[chosen[place]]->title);
    }
    answer->AddTexts("title", shape, titles);
  }

  const Tables tables_;
  const mesh::Callee ranker_;
  std::atomic<float> diversity_{0.0F};
};

}  // namespace recommend

MESH_DEPLOYMENT(recommend::Recommend)
