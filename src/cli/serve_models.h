// From serve's flags to the models of a ModelHost: where the files are, what settings come with them, what
// they take in memory, and the engine or model.py that is started with them.
#pragma once

#include <boost/asio.hpp>

#include <optional>

#include "cli/serve_flags.h"
#include "server/model_host.h"

namespace bloomery {

Result<ServerOptions> ToServerOptions(const ServeFlags& flags);

// MODEL as it was typed. What holds no serving.properties is fetched by the engine, once there is a server
// that tells how far that is. `progress`: as FetchModel has it.
Status TakeModel(ServeFlags& flags, const LoadProgress& progress = nullptr);

// Of flags that TakeModel and TakeDeployment have filled. `free_bytes`: what the model may take; absent: what
// its processes find when they start. `progress`: of what a model.py has to have fetched first, which without
// it is told on the terminal.
struct NamedModel {
  std::string name;
  PreparedModel model;
};
Result<NamedModel> PrepareFromFlags(boost::asio::io_context& io, const ServeFlags& flags,
                                    std::optional<std::uint64_t> free_bytes,
                                    const LoadProgress& progress = nullptr);

// Of models that have a URL each: those of a store, and those that are asked for. `base`: the flags of the
// command line, of which `given` were given, and which all of them get.
PrepareModel PrepareByUrl(boost::asio::io_context& io, ServeFlags base, CommandLine given);

}  // namespace bloomery
