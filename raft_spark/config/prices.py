"""id or ARN of a model -> the names under which [prices] may have it. Plain strings.

Source: the Amazon Bedrock user guide, "Supported Regions and models for inference profiles".
"""

import re
from collections.abc import Iterator

_ARN = re.compile(r"arn:[^:]+:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)")
_PROFILE = re.compile(r"(us|us-gov|eu|apac|jp|au|ca|global)\.(.+)")


def price_names(model: str) -> Iterator[str]:
    """Yield the names, best first: as it is, without its ARN, as the profile of the United States, without a profile.

    Profiles of regions have one price in the default table, that of "us."; a global profile has the model's own price.
    """
    yield model
    arn = _ARN.fullmatch(model)
    bare = arn[1] if arn else model
    yield bare
    if profile := _PROFILE.fullmatch(bare):
        if profile[1] != "global":
            yield f"us.{profile[2]}"
        yield profile[2]
