// The fuzzing targets over their seeds, and over some thousands of mutations of these, the same in each run.
#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "common/file.h"
#include "fuzz/target.h"

namespace mesh::fuzz {
namespace {

constexpr int kMutations = 4000;  // of all seeds of a target together

using Chance = std::minstd_rand;  // gives the same numbers everywhere

std::vector<std::string> Seeds(const char* target) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(MESH_FUZZ_SEEDS) + '/' + target)) {
    names.push_back(entry.path().string());
  }
  std::sort(names.begin(), names.end());
  std::vector<std::string> seeds;
  for (const std::string& name : names) {
    Result<std::string> seed = ReadFile(name);
    EXPECT_TRUE(seed.ok()) << seed.status().ToString();
    if (seed.ok()) seeds.push_back(std::move(seed).value());
  }
  return seeds;
}

std::size_t Below(std::size_t limit, Chance* chance) { return (*chance)() % limit; }

// One small change, of the kinds that break readers: other bytes, lengths that lie, pieces that are gone or twice
// there.
void Mutate(std::string* bytes, const std::string& other, Chance* chance) {
  constexpr unsigned char kTelling[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '[', '{', '\r', '\n', '%', ':'};
  const std::size_t at = Below(bytes->size() + 1, chance);
  const std::size_t some = std::min(Below(16, chance) + 1, bytes->size() - at);
  const auto telling = static_cast<char>(kTelling[Below(sizeof(kTelling), chance)]);
  switch (Below(7, chance)) {
    case 0:
      if (at < bytes->size()) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << Below(8, chance)));
      return;
    case 1:
      if (at < bytes->size()) (*bytes)[at] = telling;
      return;
    case 2: bytes->insert(at, 1 + Below(4, chance), telling); return;
    case 3: bytes->erase(at, some); return;
    case 4: bytes->insert(at, bytes->substr(at, some)); return;
    case 5: bytes->resize(at); return;
    default: bytes->replace(at, std::string::npos, other.substr(std::min(Below(other.size() + 1, chance), at)));
  }
}

std::string Hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

class Fuzz : public testing::TestWithParam<Target> {
 protected:
  static void Run(const std::string& input) {
    try {
      GetParam().run(input);
    } catch (const std::exception& error) {
      ADD_FAILURE() << GetParam().name << ": " << error.what() << " for these bytes: " << Hex(input);
    }
  }
};

TEST_P(Fuzz, SeedsAndTheirMutations) {
  const std::vector<std::string> seeds = Seeds(GetParam().name);
  ASSERT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) Run(seed);
  Chance chance(1);
  for (int i = 0; i < kMutations && !HasFailure(); ++i) {
    std::string input = seeds[Below(seeds.size(), &chance)];
    const std::string& other = seeds[Below(seeds.size(), &chance)];
    for (std::size_t left = 1 + Below(4, &chance); left > 0; --left) Mutate(&input, other, &chance);
    Run(input);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(kTargets),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace mesh::fuzz
