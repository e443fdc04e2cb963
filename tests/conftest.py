"""On CI no test may be skipped, except for a missing CUDA device."""

import os
import signal

os.environ.setdefault("MPLBACKEND", "agg")  # pictures are looked at, not shown

# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they
# start as well: the tests of Ctrl-C would wait for an answer that never comes.
signal.signal(signal.SIGINT, signal.default_int_handler)


def unexpected_skips(stats):
    """Return the reasons of skipped tests that CI does not accept."""
    reasons = [str(report.longrepr) for report in stats.get("skipped", [])]
    return sorted({reason for reason in reasons if "CUDA" not in reason})


def pytest_sessionfinish(session):
    """Fail the run on CI if something was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None:
        for reason in unexpected_skips(reporter.stats):
            session.exitstatus = 1
            reporter.write_line(f"skipped, but CI skips nothing: {reason}", red=True)
