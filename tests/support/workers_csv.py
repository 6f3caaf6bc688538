"""CSVs of workers for tests: headers, a run on four hosts, and writing one."""

from __future__ import annotations

from pathlib import Path

BASE_HEADER = "job,ip,tf_port,cuda_visible_devices,ssh_port,ssh_username,ssh_password"
LONG_HEADER = f"{BASE_HEADER},ssh_key_file,folder,python,envs_per_actor,num_actors"
FOUR_HOSTS = f"""{LONG_HEADER}
learner,10.9.0.1,8001,0,2222,ann,,,/code,/env/bin/python,,
learner,10.9.0.1,8002,1,2222,ann,,,/code,/env/bin/python,,
learner,10.9.0.2,,,,bob,,,/code,/env/bin/python,,
actor,10.9.0.3,,,,bob,,,,,,4
actor,10.9.0.4,,,,bob,,,"/my code","conda run -n rl python",7,2
"""


def write_csv(folder: Path, text: str, mode: int = 0o600) -> str:
    """Writes the CSV and returns its path."""
    path = folder / "workers.csv"
    path.write_text(text)
    path.chmod(mode)
    return str(path)
