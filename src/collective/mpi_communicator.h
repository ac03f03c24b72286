#pragma once
#include <memory>
#include "collective/communicator.h"
namespace bloomery {
Result<std::unique_ptr<Communicator>> MakeMpiCommunicator();
}
