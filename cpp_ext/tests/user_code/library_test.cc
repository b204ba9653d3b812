// The interface between replicas and libraries: real libraries, and a host that is written down by hand.
#include "user_code/library.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "user_code/settings.h"
#include "user_code/sink.h"

namespace mesh::user {
namespace {

const std::string kFolder = MESH_TEST_LIBRARIES;

// What the library does to its exchange.
struct Seen {
  std::map<std::string, std::vector<float>> outputs;
  std::vector<std::string> steps;
  std::string message;
  std::int32_t code = -1;
};

// The library only ever hands it back.
MeshExchange* ExchangeOf(Seen* seen) { return reinterpret_cast<MeshExchange*>(seen); }
Seen& SeenOf(MeshExchange* exchange) { return *reinterpret_cast<Seen*>(exchange); }

class LibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    const Result<const MeshFactory*> loaded = LoadFactory(kFolder + "/libmesh_test_echo.so");
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    factory_ = loaded.value();
    host_.size = sizeof host_;
    host_.abi = MESH_ABI_VERSION;
    host_.self = &seen_;
    host_.args = {nullptr, 0, {"{}", 2}};
    host_.deployment = host_.model = host_.application = host_.replica = host_.code_folder = host_.model_folder = "";
    host_.ask = [](void* self, const MeshQuestion* question) {
      static_cast<Seen*>(self)->steps.emplace_back("ask");
      question->done(question->self, 14, "away", 4, nullptr);
    };
    host_.output = [](MeshExchange* exchange, const char* name, const char*, const std::int64_t*, std::size_t,
                      std::size_t size, void** data, MeshSink) -> std::int32_t {
      std::vector<float>& values = SeenOf(exchange).outputs[name];
      values.resize(size / sizeof(float));
      *data = values.data();
      return 0;
    };
    host_.send = [](MeshExchange* exchange, std::int32_t, MeshSink error) -> std::int32_t {
      SeenOf(exchange).steps.emplace_back("send");
      Put(error, "nobody waits");
      return 1;
    };
    host_.finish = [](MeshExchange* exchange, std::int32_t code, const char* text, std::size_t size) {
      SeenOf(exchange).steps.emplace_back("finish");
      SeenOf(exchange).code = code;
      SeenOf(exchange).message.assign(text, size);
    };
    host_.release = [](MeshExchange* exchange) { SeenOf(exchange).steps.emplace_back("release"); };
  }

  void Create() {
    std::string error;
    ASSERT_EQ(factory_->create(&host_, &deployment_, Into(&error)), 0) << error;
  }
  void TearDown() override {
    if (deployment_ != nullptr) factory_->destroy(deployment_);
  }

  // A request whose elements do not lie where floats should.
  void Infer(const char* id) {
    std::vector<char> bytes(1 + 2 * sizeof(float));
    const float values[] = {1.5F, 2.5F};
    std::memcpy(bytes.data() + 1, values, sizeof values);
    const std::int64_t dim = 2;
    const MeshTensor input{"x", "FP32", &dim, 1, bytes.data() + 1, sizeof values};
    MeshRequest request{};
    request.size = sizeof request;
    request.id = id;
    request.inputs = &input;
    request.input_count = 1;
    request.deadline_ns = INT64_MAX;
    factory_->infer(deployment_, ExchangeOf(&seen_), &request);
  }

  const MeshFactory* factory_ = nullptr;
  MeshHost host_{};
  void* deployment_ = nullptr;
  Seen seen_;
};

using Steps = std::vector<std::string>;

TEST_F(LibraryTest, AnswersFromMemoryOfTheHost) {
  Create();
  for (const char* how : {"", "later"}) {
    seen_ = Seen();
    Infer(how);
    EXPECT_EQ(seen_.outputs["y"], (std::vector<float>{1.5F, 2.5F}));
    EXPECT_EQ(seen_.steps, (Steps{"finish", "release"}));
    EXPECT_EQ(seen_.code, 0);
  }
}

TEST_F(LibraryTest, WhatItThrowsIsTheAnswer) {
  Create();
  Infer("throw");
  EXPECT_EQ(seen_.code, 5);
  EXPECT_EQ(seen_.message, "nothing here");
  EXPECT_EQ(seen_.steps, (Steps{"finish", "release"}));
}

TEST_F(LibraryTest, AnAnswerThatIsDroppedIsAnError) {
  Create();
  Infer("drop");
  EXPECT_EQ(seen_.code, 13);
  EXPECT_EQ(seen_.message, "the deployment dropped the request without an answer");
  EXPECT_EQ(seen_.steps, (Steps{"finish", "release"}));
}

TEST_F(LibraryTest, ErrorsOfTheHostAreThrownInTheLibrary) {
  Create();
  Infer("send");
  EXPECT_EQ(seen_.code, 1);
  EXPECT_EQ(seen_.message, "nobody waits");
  seen_ = Seen();
  Infer("ask");
  EXPECT_EQ(seen_.steps, (Steps{"ask", "finish", "release"}));
  EXPECT_EQ(seen_.code, 14);
  EXPECT_EQ(seen_.message, "away");
}

TEST_F(LibraryTest, ExceptionsOfOtherMethodsAreCodesWithWords) {
  Create();
  std::string error;
  EXPECT_EQ(factory_->health(deployment_, Into(&error)), 14);
  EXPECT_EQ(error, "ill");
  const Result<SettingsText> config = SettingsText::Read(R"({"limit": 6})", "config");
  ASSERT_TRUE(config.ok());
  const MeshSettings view = config.value().view();
  error.clear();
  EXPECT_EQ(factory_->reconfigure(deployment_, &view, Into(&error)), 13);
  EXPECT_EQ(error, "a limit above 5");
}

TEST_F(LibraryTest, AConstructorMayFail) {
  const Result<SettingsText> args = SettingsText::Read(R"({"fail": true})", "args");
  ASSERT_TRUE(args.ok());
  host_.args = args.value().view();
  std::string error;
  EXPECT_EQ(factory_->create(&host_, &deployment_, Into(&error)), 13);
  EXPECT_EQ(error, "told to fail");
  EXPECT_EQ(deployment_, nullptr);
}

TEST_F(LibraryTest, ArgumentsOfAnotherTypeAreNamed) {
  const Result<SettingsText> args = SettingsText::Read(R"({"factor": "2"})", "args");
  ASSERT_TRUE(args.ok());
  host_.args = args.value().view();
  std::string error;
  EXPECT_EQ(factory_->create(&host_, &deployment_, Into(&error)), 3);
  EXPECT_EQ(error, "args.factor must be a number");
}

TEST(LoadFactory, SaysWhatIsWrong) {
  EXPECT_NE(LoadFactory(kFolder + "/nowhere.so").status().message().find("libmesh_test_echo.so"), std::string::npos);
  EXPECT_NE(LoadFactory(kFolder + "/libmesh_test_no_factory.so").status().message().find("MESH_DEPLOYMENT"),
            std::string::npos);
  EXPECT_NE(LoadFactory(kFolder + "/libmesh_test_other_abi.so").status().message().find("version 99"),
            std::string::npos);
}

TEST(CheckFactory, RefusesOneThatIsTooSmall) {
  MeshFactory factory{};
  factory.size = sizeof factory - 8;
  factory.abi = MESH_ABI_VERSION;
  EXPECT_NE(CheckFactory(&factory, "x").message().find("MESH_DEPLOYMENT"), std::string::npos);
  EXPECT_FALSE(CheckFactory(nullptr, "x").ok());
}

}  // namespace
}  // namespace mesh::user
