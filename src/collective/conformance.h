// What every Communicator must do, as checks that each rank of a group runs. For tests.
#pragma once

#include "collective/communicator.h"

namespace bloomery {

// Collective. Failed expectations are GoogleTest's.
void CheckCommunicator(Communicator& group);

}  // namespace bloomery
