// SPDX-License-Identifier: Apache-2.0
//
// What folders that are filled under another name, and get their own when all is on the disk, have in common. They
// hold files, and no folders.
//
// Threads: any. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_WHOLE_FOLDER_H
#define HEADROOM_WORKER_WHOLE_FOLDER_H

#include <stdbool.h>

// Waits until the names in it are on the disk. False with errno set.
bool whole_folder_sync(const char *path);
// The folder goes, with all files in it; what is not there, or cannot go, stays so.
void whole_folder_remove(const char *path);

#endif
