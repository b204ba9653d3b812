// What Ray finds in the library: for each actor a factory and its methods, under the names that Python gives to
// ray.cross_language.cpp_actor_class("CreateDeploymentActor", "DeploymentActor").
//
// Ray's headers keep the registry of such functions in inline statics, which must be the same objects here and in
// libray_api: they are the one thing that is not compiled with hidden visibility (see exports.map).
#pragma GCC visibility push(default)
#include <ray/api.h>
#pragma GCC visibility pop

#include <string>

#include "actor/deployment_actor.h"
#include "actor/proxy_actor.h"

using mesh::actor::DeploymentActor;
using mesh::actor::ProxyActor;

// By value: Ray decodes the arguments into the types of this signature.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
static DeploymentActor* CreateDeploymentActor(std::string config_json) { return new DeploymentActor(config_json); }

RAY_REMOTE(CreateDeploymentActor, &DeploymentActor::Status, &DeploymentActor::Drain, &DeploymentActor::Update,
           &DeploymentActor::Stop);

// NOLINTNEXTLINE(performance-unnecessary-value-param)
static ProxyActor* CreateProxyActor(std::string config_json) { return new ProxyActor(config_json); }

RAY_REMOTE(CreateProxyActor, &ProxyActor::Status, &ProxyActor::Drain, &ProxyActor::Update, &ProxyActor::Stop);
