/* The public header compiles as C, and the library it describes answers. */
#include <stdio.h>
#include <string.h>

#include "poco/poco.h"

int main(void) {
    if (poco_api_version() != POCO_API_VERSION) return 1;
    if (strlen(poco_version()) < 5 || poco_version_number() == 0) return 2;
    if (poco_cpu_features() == NULL || poco_cpu_features() != poco_cpu_features()) return 3;
    printf("poco %s (%s)\n", poco_version(), poco_cpu_features());
    return 0;
}
