import pytest

from tests.unit.stages.quantize.models import calibrated, encoder_net, encoder_samples, loud_net, loud_samples


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return calibrated(loud_net(), loud_samples(32), tmp_path_factory.mktemp("loud"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return calibrated(encoder_net(), encoder_samples(32), tmp_path_factory.mktemp("encoder"))
