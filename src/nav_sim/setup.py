from setuptools import find_packages, setup

PACKAGE = "nav_sim"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={PACKAGE: ["data/*.json"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    # colcon runs a package's tests with pytest when it finds this.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="Dual Nav maintainers",
    maintainer_email="maintainers@dual-nav.dev",
    description="Indoor simulator, episodes, oracles and evaluation.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "nav_sim = nav_sim.main:nav_sim",
            "oracle_s2 = nav_sim.main:oracle_s2",
            "oracle_s1 = nav_sim.main:oracle_s1",
        ]
    },
)
