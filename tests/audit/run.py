"""Look the pinned packages of requirements.txt up in a database of known vulnerabilities, with pip-audit.

python tests/audit/run.py                  # PyPI's database
python tests/audit/run.py --service osv    # osv.dev

Status 0: every package was looked up and none is known to be vulnerable. 1: some are. 2: not all could be looked up,
for pip-audit by itself calls that a success.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


def verdict(report: str, said: str) -> tuple[list[str], int]:
    """What to print and the exit status, from pip-audit's JSON and what it said besides."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        return [f"audit: not done, pip-audit reached no database: {reason[:200]}"], 2
    lines, skipped = [], [package for package in packages if "skip_reason" in package]
    for package in packages:
        for known in package.get("vulns", []):
            fixed = ", ".join(known["fix_versions"]) or "no version yet"
            lines.append(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    status = 1 if lines else 0
    if skipped:
        why = f"{len(skipped)} of {len(packages)} packages could not be looked up"
        return [*lines, f"audit: not done, {why} ({skipped[0]['skip_reason'][:120]})"], status or 2
    return [*lines, f"audit: {len(packages)} packages looked up, {len(lines)} known vulnerabilities"], status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi")
    service = parser.parse_args().service
    command = [sys.executable, "-m", "pip_audit", "--requirement", REQUIREMENTS, "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", service]
    done = subprocess.run(command, capture_output=True, text=True)
    lines, status = verdict(done.stdout, done.stderr)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
