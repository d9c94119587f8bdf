"""What pytest puts on the borders of `model/`: beartype, with whole numbers allowed where a float is asked for.

JSON and YAML write 1.0 as 1, so configurations hold such numbers.
"""

from beartype import BeartypeConf, beartype

check_call = beartype(conf=BeartypeConf(is_pep484_tower=True))
