// SPDX-License-Identifier: Apache-2.0
//
// report.html with report.css and report.js within it, as embed.cmake put them together.
#ifndef HEADROOM_WORKER_REPORT_TEMPLATE_H
#define HEADROOM_WORKER_REPORT_TEMPLATE_H

#define REPORT_TEMPLATE_DATA "@DATA@" // stands once where the JSON goes

extern const char report_template[];

#endif
