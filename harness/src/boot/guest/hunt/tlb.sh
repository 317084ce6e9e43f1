#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Pages are unmapped, replaced, write-protected and shared on one hart after
# another one has used them: what that one sees then must be the new state.
[ -x ./tlb ] || exit 4
[ "$(nproc)" -ge 2 ] || exit 4
exec ./tlb
