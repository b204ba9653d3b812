#include "rerank.h"

#include <algorithm>

namespace recommend {
namespace {

float Likeness(const Genres& one, const Genres& other) {
  float shared = 0;
  float all = 0;
  for (std::size_t genre = 0; genre < kGenres; ++genre) {
    shared += std::min(one[genre], other[genre]);
    all += std::max(one[genre], other[genre]);
  }
  return all == 0 ? 0 : shared / all;
}

}  // namespace

std::vector<std::size_t> Rerank(const std::vector<const Movie*>& movies, const float* stars, std::size_t count,
                                float diversity) {
  std::vector<float> likeness(movies.size(), 0.0F);  // to the most alike of the chosen ones
  std::vector<bool> taken(movies.size(), false);
  std::vector<std::size_t> chosen;
  while (chosen.size() < std::min(count, movies.size())) {
    std::size_t best = movies.size();
    for (std::size_t index = 0; index < movies.size(); ++index) {
      if (taken[index]) continue;
      const auto worth = [&](std::size_t at) { return stars[at] - diversity * likeness[at]; };
      if (best == movies.size() || worth(index) > worth(best)) best = index;
    }
    taken[best] = true;
    chosen.push_back(best);
    for (std::size_t index = 0; index < movies.size(); ++index) {
      likeness[index] = std::max(likeness[index], Likeness(movies[index]->genres, movies[best]->genres));
    }
  }
  return chosen;
}

}  // namespace recommend
